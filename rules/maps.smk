localrules:
    map,


rule layout:
    """Each model's place on the plane."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
    output:
        f"{RESULTS}/{{texts}}/layout.tsv",
    log:
        "logs/layout/{texts}.log",
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        code=CODE,
        how=layout_arguments(),
    shell:
        f"{SCRIPTS}/layout.py --matrix {{input.matrix}} --models {{input.models}} {{params.how}} "
        "--layout {output} > {log} 2>&1"


rule tree:
    """The models as a tree, by average linkage on KL."""
    input:
        f"{RESULTS}/{{texts}}/kl.h5",
    output:
        f"{RESULTS}/{{texts}}/tree.nwk",
    log:
        "logs/tree/{texts}.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=CODE,
    shell:
        f"{SCRIPTS}/tree.py --kl {{input}} --tree {{output}} > {{log}} 2>&1"


rule figures:
    """The map and its companions, as PNG and SVG."""
    input:
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        kl=f"{RESULTS}/{{texts}}/kl.h5",
        tree=f"{RESULTS}/{{texts}}/tree.nwk" if HAS_TREE else [],
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
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=CODE,
        color_by=CONFIG.map.color_by,
        names=FIGURES,
    shell:
        f"{SCRIPTS}/figures.py --models {{input.models}} --layout {{input.layout}} "
        "--kl {input.kl} --tree {input.tree} --color-by {params.color_by} "
        f"--figures {RESULTS}/{{wildcards.texts}}/figures {{params.names}} > {{log}} 2>&1"


rule explorer:
    """The map as one page to open in a browser."""
    input:
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        neighbors=f"{RESULTS}/{{texts}}/neighbors.tsv",
        figure=f"{RESULTS}/{{texts}}/figures/map.svg",
        manifest=f"{RESULTS}/{{texts}}/texts.json",
    output:
        f"{RESULTS}/{{texts}}/map.html",
    log:
        "logs/explorer/{texts}.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=CODE,
    shell:
        f"{SCRIPTS}/explorer.py --models {{input.models}} --layout {{input.layout}} "
        "--neighbors-table {input.neighbors} --figure {input.figure} --manifest {input.manifest} "
        "--page {output} > {log} 2>&1"


rule map:
    """Every map that the configuration asks for, with its tables and figures."""
    input:
        map_files(),
