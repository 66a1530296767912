rule mixture:
    """Which mixture of domains would move one model towards another."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/mixture/{{file}}",
            file=ANALYSES["mixture"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/mixture/{{figure}}.svg",
            figure=ANALYSES["mixture"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/mixture/{figure}.png",
                caption=f"captions/mixture-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["mixture"][1].items()
        ],
    log:
        "logs/mixture/{texts}.log",
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
        plans=on_texts(arguments.mixtures),
        how=arguments.mixture(CONFIG),
    shell:
        f"{SCRIPTS}/mixture.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        "--layout {input.layout} --plans {params.plans:q} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/mixture > {{log}} 2>&1"


rule mixture_train:
    """A base of the demo, trained on under the mixture that was found, or a uniform one."""
    input:
        weights=f"{RESULTS}/{{texts}}/mixture/weights.tsv",
        base=on_mixture(plan_prompts.base_run),
        corpus=f"{ZOO}/corpus",
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        directory(f"{RESULTS}/{{texts}}/mixture_train/{{plan}}-{{kind}}"),
    log:
        "logs/mixture_train/{texts}/{plan}-{kind}.log",
    wildcard_constraints:
        plan=NAME_PATTERN,
        kind="found|uniform",
    conda:
        "../envs/score.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        base=on_mixture(plan_prompts.base_folder),
        spec=on_mixture(plan_prompts.spec_of_base),
    shell:
        f"{SCRIPTS}/mixture_train.py --weights {{input.weights}} --plan {{wildcards.plan}} "
        "--kind {wildcards.kind} --base {params.base} --corpus {input.corpus} "
        "--texts {input.texts} --manifest {input.manifest} --spec {params.spec:q} "
        "--threads {threads} --out {output} "
        "> {log} 2>&1"


rule mixture_check:
    """How near to its target a model comes that is trained under the mixture."""

    # Not in the allocation of the map: what it waits for waits for that.
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        offmap=on_texts(products.offmap),
        offmap_models=on_texts(products.offmap_models),
        trained=on_texts(plan_prompts.trained),
        weights=f"{RESULTS}/{{texts}}/mixture/weights.tsv",
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/mixture_check/{{file}}",
            file=ANALYSES["mixture_check"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/mixture_check/{{figure}}.svg",
            figure=ANALYSES["mixture_check"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/mixture_check/{figure}.png",
                caption=f"captions/mixture_check-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["mixture_check"][1].items()
        ],
    log:
        "logs/mixture_check/{texts}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        plans=on_texts(arguments.checked_mixtures),
        trained=on_texts(arguments.trained),
    shell:
        f"{SCRIPTS}/mixture_check.py --matrix {{input.matrix}} --models {{input.models}} "
        "--offmap {input.offmap} --offmap-models {input.offmap_models} "
        "--weights {input.weights} "
        "--plans {params.plans:q} --trained {params.trained:q} "
        f"--folder {RESULTS}/{{wildcards.texts}}/mixture_check > {{log}} 2>&1"
