localrules:
    merge_card,


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
    priority: on_source(Plan.resolve_turn)
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        id=lambda wildcards: PLAN.source(wildcards.source).id,
        weights=on_source(arguments.merge),
        on_failure=CONFIG.on_model_failure,
    shell:
        f"{SCRIPTS}/merge_card.py --id {{params.id}} --cards {{input}} {{params.weights}} "
        "--on-failure {params.on_failure} --card {output} > {log} 2>&1"


rule merge:
    """The weights of a merge, in a folder that is gone when its last score is there."""
    input:
        card=f"{RESULTS}/models/{{source}}/card.json",
        parents=lambda wildcards: map(PLAN.weights, PLAN.parts(wildcards.source)),
    output:
        temp(directory(f"{RESULTS}/models/{{source}}/weights")),
    log:
        "logs/merge/{source}.log",
    wildcard_constraints:
        source=MERGE_PATTERN,
    priority: on_source(Plan.fetch_turn)
    conda:
        "../envs/score.yaml"
    resources:
        mem_mb=8000,
        runtime=120,
        place=fetch_place,
    params:
        weights=on_source(arguments.merge),
    shell:
        f"{SCRIPTS}/merge.py --card {{input.card}} --parents {{input.parents}} {{params.weights}} "
        f"{FETCH_OPTIONS} --place {{resources.place}} --out {{output}} > {{log}} 2>&1"
