localrules:
    map,


rule layout:
    """Each model's place on the plane, near the place that it had before."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        reference_layout=of_reference("layout.tsv"),
        reference_report=of_reference("layout.json"),
    output:
        # The layout that is there is where the next one begins.
        layout=update(f"{RESULTS}/{{texts}}/layout.tsv"),
        report=update(f"{RESULTS}/{{texts}}/layout.json"),
    log:
        "logs/layout/{texts}.log",
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
        how=arguments.layout(CONFIG),
    shell:
        f"{SCRIPTS}/layout.py --matrix {{input.matrix}} --kl {{input.kl}} "
        "--models {input.models} {params.how} --reference-layout {input.reference_layout:q} "
        "--reference-report {input.reference_report:q} "
        "--layout {output.layout} --report {output.report} > {log} 2>&1"


rule tree:
    """The models as a tree, by average linkage on KL, with the support of every join."""
    input:
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
    output:
        f"{RESULTS}/{{texts}}/tree.nwk",
    log:
        "logs/tree/{texts}.log",
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
        bootstrap=CONFIG.map.bootstrap,
        seed=CONFIG.map.seed,
    shell:
        f"{SCRIPTS}/tree.py --kl {{input.kl}} --matrix {{input.matrix}} "
        "--bootstrap {params.bootstrap} --seed {params.seed} --tree {output} > {log} 2>&1"


rule ellipses:
    """Where other samples of the texts would place each model."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
        reference=of_reference("ellipses.tsv"),
    output:
        f"{RESULTS}/{{texts}}/ellipses.tsv",
    log:
        "logs/ellipses/{texts}.log",
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
        bootstrap=CONFIG.map.bootstrap,
        seed=CONFIG.map.seed,
        dense_limit=CONFIG.map.dense_limit,
    shell:
        f"{SCRIPTS}/ellipses.py --matrix {{input.matrix}} --models {{input.models}} "
        "--layout {input.layout} --layout-report {input.report} "
        "--bootstrap {params.bootstrap} --seed {params.seed} --dense-limit {params.dense_limit} "
        "--reference-ellipses {input.reference:q} --ellipses {output} > {log} 2>&1"


rule domains:
    """One map for each domain of the texts."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
    output:
        f"{RESULTS}/{{texts}}/domains.tsv",
    log:
        "logs/domains/{texts}.log",
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
        seed=CONFIG.map.seed,
    shell:
        f"{SCRIPTS}/domains.py --matrix {{input.matrix}} --models {{input.models}} "
        "--layout {input.layout} --layout-report {input.report} --seed {params.seed} "
        "--domains {output} > {log} 2>&1"


rule figures:
    """The map and its companions, as PNG and SVG."""
    input:
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
        tree=f"{RESULTS}/{{texts}}/tree.nwk" if ALL_PAIRS else [],
        ellipses=f"{RESULTS}/{{texts}}/ellipses.tsv" if HAS_ELLIPSES else [],
        domains=f"{RESULTS}/{{texts}}/domains.tsv" if HAS_DOMAINS else [],
    output:
        expand(f"{RESULTS}/{{{{texts}}}}/figures/{{name}}.svg", name=FIGURES),
        [
            report(
                f"{RESULTS}/{{texts}}/figures/{name}.png",
                caption=f"captions/{name}.rst",
                category="Text set {texts}",
                labels={"figure": FIGURE_TITLES[name]},
            )
            for name in FIGURES
        ],
    log:
        "logs/figures/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        bootstrap=CONFIG.map.bootstrap,
        color_by=CONFIG.map.color_by,
        names=FIGURES,
    shell:
        f"{SCRIPTS}/figures.py --models {{input.models}} --layout {{input.layout}} "
        "--layout-report {input.report} --kl {input.kl} --tree {input.tree} "
        "--ellipses {input.ellipses} --domains {input.domains} --manifest {input.manifest} "
        "--bootstrap {params.bootstrap} --color-by {params.color_by} "
        f"--figures {RESULTS}/{{wildcards.texts}}/figures {{params.names}} > {{log}} 2>&1"


rule explorer:
    """The map as one page to open in a browser."""
    input:
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
        neighbors=f"{RESULTS}/{{texts}}/neighbors.tsv",
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
        ellipses=f"{RESULTS}/{{texts}}/ellipses.tsv" if HAS_ELLIPSES else [],
        benchmarks=on_texts(products.benchmarks_on),
        predictions=on_texts(products.predictions_on),
        ways=on_texts(products.ways_on),
        conventions=(f"{RESULTS}/{{texts}}/conventions.tsv" if CONFIG.published else []),
    output:
        f"{RESULTS}/{{texts}}/map.html",
    log:
        "logs/explorer/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=map_memory,
        runtime=map_minutes,
    params:
        code=CODE,
        reference=on_texts(Plan.reference_title),
    shell:
        f"{SCRIPTS}/explorer.py --models {{input.models}} --layout {{input.layout}} "
        "--layout-report {input.report} --neighbors-table {input.neighbors} --kl {input.kl} "
        "--matrix {input.matrix} --manifest {input.manifest} --ellipses {input.ellipses} "
        "--benchmarks {input.benchmarks} --predictions {input.predictions} "
        "--ways {input.ways} --conventions {input.conventions} --reference {params.reference:q} --page {output} > {log} 2>&1"


rule map:
    """Every map that the configuration asks for, with its tables and figures."""
    input:
        products.map_files(PLAN),
