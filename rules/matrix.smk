localrules:
    index,
    prune,


rule index:
    """Which models belong on the map, and under which settings they were scored."""
    input:
        releases=on_texts(products.release_tables),
        reference=of_reference("index.tsv"),
        # Its index may ask for more than its map has, or than could be scored.
        models=of_reference("models.tsv"),
    output:
        f"{RESULTS}/{{texts}}/index.tsv",
    log:
        "logs/index/{texts}.log",
    priority: FIRST
    params:
        rows=on_texts(plan_tables.index_rows),
    run:
        try:
            reference = [*input.reference, *input.models]
            write_index(output[0], params.rows, input.releases, reference)
        except InputError as error:
            raise WorkflowError(str(error)) from None


rule matrix:
    """All models of a text set in one matrix, and what is known of each."""
    input:
        index=f"{RESULTS}/{{texts}}/index.tsv",
        releases=on_texts(products.release_reports),
        reference=of_reference("matrix.h5"),
        selection=on_texts(products.selection_file),
        scores=scores_of(CONFIG.mapped_on.get),
        cards=cards_of(CONFIG.mapped_on.get),
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        failures=f"{RESULTS}/{{texts}}/failures.tsv",
        differences=(
            report(
                f"{RESULTS}/{{texts}}/conventions.tsv",
                caption="captions/conventions.rst",
                category="Text set {texts}",
                labels={"figure": "Models scored in another way"},
            )
            if CONFIG.published
            else []
        ),
    log:
        "logs/matrix/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        values=on_texts(arguments.values),
        clip=on_texts(arguments.clip),
        allow=on_texts(arguments.allow),
        on_failure=CONFIG.on_model_failure,
    shell:
        f"{SCRIPTS}/matrix.py --index {{input.index}} --cards {RESULTS}/models {{params.values}} "
        "--texts {input.texts} --manifest {input.manifest} {params.clip} "
        "--selection {input.selection} {params.allow} --differences {output.differences} "
        "--on-failure {params.on_failure} --matrix {output.matrix} --models {output.models} "
        "--failures {output.failures} > {log} 2>&1"


rule kl:
    """KL divergences of all pairs with standard errors, and each model's neighbours."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        reference=of_reference("kl.h5"),
    output:
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        neighbors=f"{RESULTS}/{{texts}}/neighbors.tsv",
    log:
        "logs/kl/{texts}.log",
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
        neighbors=CONFIG.map.neighbors,
        dense_limit=CONFIG.map.dense_limit,
    shell:
        f"{SCRIPTS}/kl.py --matrix {{input.matrix}} --models {{input.models}} "
        "--reference-kl {input.reference:q} "
        "--neighbors {params.neighbors} --dense-limit {params.dense_limit} --kl {output.kl} "
        "--neighbors-table {output.neighbors} > {log} 2>&1"


rule prune:
    """List scores that no configuration asks for; asked a second time, remove them."""
    input:
        [products.index_files(PLAN, texts) for texts in CONFIG.texts],
    log:
        "logs/prune/prune.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        f"{SCRIPTS}/prune.py --index {{input}} --models {RESULTS}/models "
        f"--list {RESULTS}/prune.tsv 2>&1 | tee {{log}}"
