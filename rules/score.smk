localrules:
    scores,


resource_scopes:
    gpu_turn="local",


# Speed as measured decides how much time is asked for.
onstart:
    SUBMISSION.measure()


rule score:
    """Log-likelihoods of one model on one text set: an independent GPU job."""
    input:
        card=card_of,
        weights=weights_of,
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    # A score appears when it is complete. Snakemake is not to remove it before a job that would
    # only find it finished: one that another run of Snakemake submitted before it was killed.
    output:
        update(f"{RESULTS}/{{texts}}/scores/{{model}}.{{fp}}.h5"),
    log:
        "logs/score/{texts}/{model}.{fp}.log",
    benchmark:
        "logs/benchmark/score/{texts}/{model}.{fp}.tsv"
    priority: lambda wildcards: turns.score(PLAN, wildcards.model)
    group:
        SCORE_GROUP
    conda:
        "../envs/score.yaml"
    threads: score_threads
    resources:
        gpu=score_gpus,
        gpu_turn=1,
        mem_mb=score_memory,
        runtime=score_minutes,
    params:
        spec=lambda wildcards: PLAN.spec(wildcards.texts, wildcards.model),
        refusal=score_refusal,
        extras=score_extras,
    # exec: where a job is told to end, no shell in between ends first and the scorer can save.
    shell:
        f"exec {SCRIPTS}/score.py --card {{input.card}} --weights {{input.weights}} "
        "--texts {input.texts} --manifest {input.manifest} --model {wildcards.model} "
        f"{SCORE_OPTIONS} {{params.extras}} {{params.refusal}} "
        "--spec {params.spec:q} --score {output} --threads {threads} "
        "> {log} 2>&1"


rule scores:
    """Every score that the configuration asks for, without the map."""
    input:
        all_scores,
