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


rule divergence:
    """Exact divergences of two models on the same tokens: an independent GPU job."""
    input:
        cards=on_pair(PLAN.divergences, PairJobs.cards),
        weights=pair_weights(PLAN.divergences),
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        update(f"{RESULTS}/{{texts}}/divergences/{{first}}~{{second}}.{{fp}}.h5"),
    log:
        "logs/divergence/{texts}/{first}~{second}.{fp}.log",
    benchmark:
        "logs/benchmark/divergence/{texts}/{first}~{second}.{fp}.tsv"
    wildcard_constraints:
        first=MODEL_PATTERN,
        second=MODEL_PATTERN,
    conda:
        "../envs/score.yaml"
    threads: pair_asks(PLAN.divergences, "cpus")
    resources:
        gpu=pair_asks(PLAN.divergences, "gpus"),
        gpu_turn=1,
        mem_mb=pair_asks(PLAN.divergences, "memory"),
        runtime=pair_asks(PLAN.divergences, "minutes"),
    params:
        pair=on_pair(PLAN.divergences, arguments.pair),
        spec=on_pair(PLAN.divergences, PairJobs.spec),
        refusal=lambda wildcards, output: arguments.refusal(
            pair_asks(PLAN.divergences, "refusal")(wildcards)
        ),
    shell:
        f"exec {SCRIPTS}/divergence.py --cards {{input.cards}} --weights {{input.weights}} "
        "--texts {input.texts} --manifest {input.manifest} {params.pair} "
        f"{PAIR_OPTIONS} {{params.refusal}} "
        "--spec {params.spec:q} --divergence {output} --threads {threads} > {log} 2>&1"


rule samples:
    """What two models write after the same prompts, scored by both: an independent GPU job."""
    input:
        cards=on_pair(PLAN.samples, PairJobs.cards),
        weights=pair_weights(PLAN.samples),
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        update(f"{RESULTS}/{{texts}}/samples/{{first}}~{{second}}.{{fp}}.h5"),
    log:
        "logs/samples/{texts}/{first}~{second}.{fp}.log",
    benchmark:
        "logs/benchmark/samples/{texts}/{first}~{second}.{fp}.tsv"
    wildcard_constraints:
        first=MODEL_PATTERN,
        second=MODEL_PATTERN,
    conda:
        "../envs/score.yaml"
    threads: pair_asks(PLAN.samples, "cpus")
    resources:
        gpu=pair_asks(PLAN.samples, "gpus"),
        gpu_turn=1,
        mem_mb=pair_asks(PLAN.samples, "memory"),
        runtime=pair_asks(PLAN.samples, "minutes"),
    params:
        pair=on_pair(PLAN.samples, arguments.pair),
        spec=on_pair(PLAN.samples, PairJobs.spec),
        refusal=lambda wildcards, output: arguments.refusal(
            pair_asks(PLAN.samples, "refusal")(wildcards)
        ),
    shell:
        f"exec {SCRIPTS}/samples.py --cards {{input.cards}} --weights {{input.weights}} "
        "--texts {input.texts} --manifest {input.manifest} {params.pair} "
        f"{PAIR_OPTIONS} {{params.refusal}} "
        "--spec {params.spec:q} --samples-file {output} --threads {threads} > {log} 2>&1"
