localrules:
    offmap_index,


rule offmap_index:
    """Which models are scored but kept off the map."""
    output:
        f"{RESULTS}/{{texts}}/offmap-index.tsv",
    log:
        "logs/offmap_index/{texts}.log",
    priority: FIRST
    params:
        rows=on_texts(plan_tables.offmap_rows),
    run:
        try:
            write_index(output[0], params.rows, [])
        except InputError as error:
            raise WorkflowError(str(error)) from None


rule offmap:
    """The models that are kept off the map, clipped as those on it."""
    input:
        index=f"{RESULTS}/{{texts}}/offmap-index.tsv",
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        selection=on_texts(products.selection_file),
        scores=scores_of(CONFIG.unmapped_on.get),
        cards=cards_of(CONFIG.unmapped_on.get),
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        matrix=f"{RESULTS}/{{texts}}/offmap.h5",
        models=f"{RESULTS}/{{texts}}/offmap.tsv",
        failures=f"{RESULTS}/{{texts}}/offmap-failures.tsv",
    log:
        "logs/offmap/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        values=on_texts(arguments.values),
        on_failure=CONFIG.on_model_failure,
    shell:
        f"{SCRIPTS}/offmap.py --index {{input.index}} --clip-from {{input.matrix}} "
        f"--cards {RESULTS}/models {{params.values}} "
        "--texts {input.texts} --manifest {input.manifest} --selection {input.selection} "
        "--on-failure {params.on_failure} --offmap {output.matrix} --models {output.models} "
        "--failures {output.failures} > {log} 2>&1"


rule scale:
    """What a KL means: pairs of models by how they are related."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/scale/{{file}}",
            file=ANALYSES["scale"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/scale/{{figure}}.svg",
            figure=ANALYSES["scale"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/scale/{figure}.png",
                caption=f"captions/scale-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["scale"][1].items()
        ],
    log:
        "logs/scale/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        how=arguments.scale(CONFIG),
    shell:
        f"{SCRIPTS}/scale.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/scale > {{log}} 2>&1"


rule trajectories:
    """Training runs: how far each step goes, and how training diffuses."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
        index=on_texts(products.index_files),
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/trajectories/{{file}}",
            file=ANALYSES["trajectories"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/trajectories/{{figure}}.svg",
            figure=ANALYSES["trajectories"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/trajectories/{figure}.png",
                caption=f"captions/trajectories-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["trajectories"][1].items()
        ],
    log:
        "logs/trajectories/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        how=arguments.trajectories(CONFIG),
    shell:
        f"{SCRIPTS}/trajectories.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        "--index {input.index} --layout {input.layout} --texts {input.texts} {params.how} "
        f"--scores {RESULTS}/{{wildcards.texts}}/scores "
        f"--folder {RESULTS}/{{wildcards.texts}}/trajectories > {{log}} 2>&1"


rule merges:
    """How straight the way between merged models is."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/merges/{{file}}",
            file=ANALYSES["merges"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/merges/{{figure}}.svg",
            figure=ANALYSES["merges"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/merges/{figure}.png",
                caption=f"captions/merges-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["merges"][1].items()
        ],
    log:
        "logs/merges/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
    shell:
        f"{SCRIPTS}/merges.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        f"--folder {RESULTS}/{{wildcards.texts}}/merges > {{log}} 2>&1"


rule quantization:
    """What precisions do to models, and whether that is more than error."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/quantization/{{file}}",
            file=ANALYSES["quantization"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/quantization/{{figure}}.svg",
            figure=ANALYSES["quantization"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/quantization/{figure}.png",
                caption=f"captions/quantization-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["quantization"][1].items()
        ],
    log:
        "logs/quantization/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
    shell:
        f"{SCRIPTS}/quantization.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        f"--folder {RESULTS}/{{wildcards.texts}}/quantization > {{log}} 2>&1"


rule true_kl:
    """Estimates of KL against its exact value per token."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
        divergences=files_of(PLAN.divergences),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/true_kl/{{file}}",
            file=ANALYSES["true_kl"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/true_kl/{{figure}}.svg",
            figure=ANALYSES["true_kl"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/true_kl/{figure}.png",
                caption=f"captions/true_kl-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["true_kl"][1].items()
        ],
    log:
        "logs/true_kl/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
    shell:
        f"{SCRIPTS}/true_kl.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        "--divergences {input.divergences} "
        f"--folder {RESULTS}/{{wildcards.texts}}/true_kl > {{log}} 2>&1"
