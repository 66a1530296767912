rule published:
    """What others have computed, as score files like all others."""
    input:
        on_release(products.release_inputs),
        texts=on_release(products.release_texts),
        manifest=on_release(products.release_manifest),
    output:
        index=f"{RESULTS}/published/{{release}}/index.tsv",
        benchmarks=f"{RESULTS}/published/{{release}}/benchmarks.tsv",
        report=f"{RESULTS}/published/{{release}}/report.json",
    log:
        "logs/published/{release}.log",
    priority: FIRST
    localrule: ON_HEAD and RELEASES_FROM_AFAR
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        recipe=on_release(arguments.release_recipe),
        spec=on_release(arguments.release_spec),
        scores=on_release(products.release_scores),
    shell:
        f"{SCRIPTS}/published.py --name {{wildcards.release}} --recipe {{params.recipe:q}} "
        "--spec {params.spec:q} --texts {input.texts} --manifest {input.manifest} "
        "--scores {params.scores} "
        f"--downloads {RESULTS}/published/{{wildcards.release}}/files "
        "--index {output.index} --benchmarks {output.benchmarks} --report {output.report} "
        "> {log} 2>&1"
