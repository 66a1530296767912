rule zoo_corpus:
    """Text that the demo models are trained on; disjoint from what is scored."""
    output:
        directory(f"{ZOO}/corpus"),
    log:
        "logs/zoo_corpus/zoo_corpus.log",
    priority: FIRST
    conda:
        "../envs/score.yaml"
    resources:
        mem_mb=4000,
        runtime=15,
    shell:
        f"{SCRIPTS}/zoo_corpus.py --out {{output}} > {{log}} 2>&1"


rule zoo_tokenizer:
    """The two tokenizers of the demo models."""
    input:
        f"{ZOO}/corpus",
    output:
        directory(f"{ZOO}/tokenizers"),
    log:
        "logs/zoo_tokenizer/zoo_tokenizer.log",
    priority: FIRST
    conda:
        "../envs/score.yaml"
    resources:
        mem_mb=4000,
        runtime=15,
    shell:
        f"{SCRIPTS}/zoo_tokenizer.py --corpus {{input}} --out {{output}} > {{log}} 2>&1"


rule zoo_train:
    """One training run of the demo zoo with all its checkpoints."""
    input:
        corpus=f"{ZOO}/corpus",
        tokenizers=f"{ZOO}/tokenizers",
        parents=lambda wildcards: PLAN.zoo_parents(wildcards.run),
    output:
        directory(f"{ZOO}/runs/{{run}}"),
    log:
        "logs/zoo_train/{run}.log",
    wildcard_constraints:
        run=NAME_PATTERN,
    priority: FIRST
    conda:
        "../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        recipe=lambda wildcards: repr(zoo_runs.RUNS[wildcards.run]),
    shell:
        f"{SCRIPTS}/zoo_train.py --run {{wildcards.run}} --corpus {{input.corpus}} "
        "--tokenizers {input.tokenizers} --parents {input.parents} --out {output} > {log} 2>&1"
