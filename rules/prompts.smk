rule variant:
    """The texts of another set with edited prompts, or the same for PMI."""
    input:
        texts=ancient(on_texts(plan_prompts.base_texts)),
        manifest=on_texts(plan_prompts.base_manifest),
    output:
        texts=f"{RESULTS}/{{texts}}/texts.jsonl",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    log:
        "logs/variant/{texts}.log",
    wildcard_constraints:
        texts=VARIANT_PATTERN,
    priority: FIRST
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        edits=on_texts(plan_prompts.edits),
        recipe=text_recipe,
    shell:
        f"{SCRIPTS}/variant.py --texts {{input.texts}} --manifest {{input.manifest}} "
        "--edits {params.edits:q} --recipe {params.recipe:q} "
        "--out-texts {output.texts} --out-manifest {output.manifest} > {log} 2>&1"


rule prompts:
    """What edits of the prompt do to models, and whether they add up."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        edited=on_texts(plan_prompts.edited_paths),
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/prompts/{{file}}",
            file=ANALYSES["prompts"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/prompts/{{figure}}.svg",
            figure=ANALYSES["prompts"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/prompts/{figure}.png",
                caption=f"captions/prompts-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["prompts"][1].items()
        ],
    log:
        "logs/prompts/{texts}.log",
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
        how=on_texts(arguments.prompts),
    shell:
        f"{SCRIPTS}/prompts.py --matrix {{input.matrix}} --models {{input.models}} "
        "{params.how} --layout {input.layout} "
        f"--folder {RESULTS}/{{wildcards.texts}}/prompts > {{log}} 2>&1"


rule generation:
    """Estimates of KL against those from texts that the models write."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
        samples=files_of(PLAN.samples),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/generation/{{file}}",
            file=ANALYSES["generation"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/generation/{{figure}}.svg",
            figure=ANALYSES["generation"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/generation/{figure}.png",
                caption=f"captions/generation-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["generation"][1].items()
        ],
    log:
        "logs/generation/{texts}.log",
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
        how=arguments.generation(CONFIG),
    shell:
        f"{SCRIPTS}/generation.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        "--samples {input.samples} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/generation > {{log}} 2>&1"
