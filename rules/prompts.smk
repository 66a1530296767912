rule variant:
    """The texts of another set with edited prompts, or the same for PMI."""
    input:
        texts=ancient(on_texts(products.base_texts)),
        manifest=on_texts(products.base_manifest),
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
        edits=on_texts(products.edits),
        recipe=text_recipe,
    shell:
        f"{SCRIPTS}/variant.py --texts {{input.texts}} --manifest {{input.manifest}} "
        "--edits {params.edits:q} --recipe {params.recipe:q} "
        "--out-texts {output.texts} --out-manifest {output.manifest} > {log} 2>&1"
