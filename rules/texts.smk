rule texts:
    """The fixed set of texts that every model is scored on."""
    output:
        texts=f"{RESULTS}/{{texts}}/texts.jsonl",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    log:
        "logs/texts/{texts}.log",
    wildcard_constraints:
        texts=DRAWN_TEXTS_PATTERN,
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


rule selection:
    """Some texts of another set, chosen and weighted by what its models say of them."""
    input:
        matrix=matrix_to_draw_from,
        texts=ancient(of_reference("texts.jsonl")),
        manifest=of_reference("texts.json"),
        drawn=drawn_before,
    # What was drawn stays where another draw fails: drawn again it could be other texts.
    output:
        selection=update(f"{RESULTS}/{{texts}}/selection.h5"),
        texts=update(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=update(f"{RESULTS}/{{texts}}/texts.json"),
    log:
        "logs/selection/{texts}.log",
    wildcard_constraints:
        texts=SELECTION_PATTERN,
    priority: FIRST
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        recipe=text_recipe,
    shell:
        f"{SCRIPTS}/selection.py --recipe {{params.recipe:q}} "
        "--reference-matrix {input.matrix:q} --reference-texts {input.texts:q} "
        "--reference-manifest {input.manifest:q} --path {input.drawn:q} "
        "--selection {output.selection} --texts {output.texts} --manifest {output.manifest} "
        "> {log} 2>&1"
