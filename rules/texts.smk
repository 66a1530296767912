rule texts:
    """The fixed set of texts that every model is scored on."""
    output:
        texts=f"{RESULTS}/{{texts}}/texts.jsonl",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    log:
        "logs/texts/{texts}.log",
    priority: FIRST
    localrule: ON_HEAD and TEXTS_FROM_AFAR
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        recipe=text_recipe,
        address=text_address,
    shell:
        f"{SCRIPTS}/texts.py --recipe {{params.recipe:q}} {{params.address}} "
        "--texts {output.texts} --manifest {output.manifest} > {log} 2>&1"
