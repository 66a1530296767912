localrules:
    merge_card,
    sources,
    refresh,


rule resolve:
    """What a model is, and which commit: asked once, kept in its card."""
    input:
        on_source(Plan.zoo_run),
    output:
        f"{RESULTS}/models/{{source}}/card.json",
    log:
        "logs/resolve/{source}.log",
    wildcard_constraints:
        source=FETCHED_PATTERN,
    priority: on_source(turns.resolve)
    localrule: ON_HEAD
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        model=on_source(arguments.identity),
    shell:
        f"{SCRIPTS}/resolve.py {{params.model}} {RESOLVE_OPTIONS} "
        "--card {output} > {log} 2>&1"


rule fetch:
    """A model's files, in a folder that is gone when its last score is there."""
    input:
        card=f"{RESULTS}/models/{{source}}/card.json",
        zoo=ancient(on_source(Plan.zoo_run)),
    output:
        temp(directory(f"{RESULTS}/models/{{source}}/weights")),
    log:
        "logs/fetch/{source}.log",
    wildcard_constraints:
        source=FETCHED_PATTERN,
    priority: on_source(turns.fetch)
    localrule: ON_HEAD
    conda:
        "../envs/analysis.yaml"
    threads: fetch_threads
    resources:
        downloads=1,
        place=fetch_place,
        mem_mb=2000,
        runtime=1440,
    params:
        folder=on_source(arguments.folder),
    shell:
        f"{SCRIPTS}/fetch.py --card {{input.card}} {{params.folder}} {FETCH_OPTIONS} "
        "--place {resources.place} --weights {output} > {log} 2>&1"


rule merge_card:
    """What a merge is, from the cards of what it is made of."""
    input:
        lambda wildcards: map(PLAN.card, PLAN.parts(wildcards.source)),
    output:
        f"{RESULTS}/models/{{source}}/card.json",
    log:
        "logs/merge_card/{source}.log",
    wildcard_constraints:
        source=MERGE_PATTERN,
    priority: on_source(turns.resolve)
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        id=lambda wildcards: PLAN.source(wildcards.source).id,
        weights=on_source(arguments.merge),
    shell:
        f"{SCRIPTS}/merge_card.py --id {{params.id}} --cards {{input}} {{params.weights}} "
        f"--on-failure {CONFIG.on_model_failure} --card {{output}} > {{log}} 2>&1"


rule merge:
    """The weights of a merge, in a folder that is gone when its last score is there."""
    input:
        card=f"{RESULTS}/models/{{source}}/card.json",
        # Weights of its parts that a failed run has left do not make a finished merge again.
        parents=lambda wildcards: map(
            ancient if all(PLAN.are_finished(wildcards.source)) else str,
            map(PLAN.weights, PLAN.parts(wildcards.source)),
        ),
    output:
        temp(directory(f"{RESULTS}/models/{{source}}/weights")),
    log:
        "logs/merge/{source}.log",
    wildcard_constraints:
        source=MERGE_PATTERN,
    priority: on_source(turns.fetch)
    conda:
        "../envs/score.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
        place=fetch_place,
    params:
        weights=on_source(arguments.merge),
    shell:
        f"exec {SCRIPTS}/merge.py --card {{input.card}} --parents {{input.parents}} {{params.weights}} "
        f"{MERGE_OPTIONS} --place {{resources.place}} --out {{output}} > {{log}} 2>&1"


rule sources:
    """Every configured model, for refresh."""
    output:
        f"{RESULTS}/models/_sources.tsv",
    log:
        "logs/sources/sources.log",
    params:
        rows=plan_tables.source_rows(PLAN),
    run:
        header = plan_tables.source_header(PLAN)
        write_text(Path(output[0]), "\n".join([header, *params.rows]) + "\n")


rule refresh:
    """Ask where configured models are now; rewrite only the cards of those that moved."""
    input:
        unlocked,
        f"{RESULTS}/models/_sources.tsv",
    log:
        "logs/refresh/refresh.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        f"{SCRIPTS}/refresh.py --index {{input}} --cards {RESULTS}/models 2>&1 | tee {{log}}"
