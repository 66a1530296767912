localrules:
    analyses,


rule predict:
    """Benchmark scores from coordinates, and how well that works."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        benchmarks=on_texts(products.benchmarks_on),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/predict/{{file}}",
            file=ANALYSES["predict"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/predict/{{figure}}.svg",
            figure=ANALYSES["predict"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/predict/{figure}.png",
                caption=f"captions/predict-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["predict"][1].items()
        ],
    log:
        "logs/predict/{texts}.log",
    group:
        MAP_GROUP
    conda:
        "../envs/analysis.yaml"
    threads: 2
    resources:
        mem_mb=map_memory,
        runtime=predict_minutes,
    params:
        code=CODE,
        how=arguments.predict(CONFIG),
        tasks=CONFIG.analyses.predict.tasks if CONFIG.analyses.predict else [],
    shell:
        f"{SCRIPTS}/predict.py --matrix {{input.matrix}} --models {{input.models}} "
        "--benchmarks {input.benchmarks} --tasks {params.tasks:q} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/predict > {{log}} 2>&1"


rule leakage:
    """Models whose log-likelihood is too high for their benchmark scores."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        benchmarks=on_texts(products.benchmarks_on),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/leakage/{{file}}",
            file=ANALYSES["leakage"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/leakage/{{figure}}.svg",
            figure=ANALYSES["leakage"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/leakage/{figure}.png",
                caption=f"captions/leakage-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["leakage"][1].items()
        ],
    log:
        "logs/leakage/{texts}.log",
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
        tasks=CONFIG.analyses.leakage.tasks if CONFIG.analyses.leakage else [],
    shell:
        f"{SCRIPTS}/leakage.py --matrix {{input.matrix}} --models {{input.models}} "
        "--benchmarks {input.benchmarks} --tasks {params.tasks:q} "
        f"--folder {RESULTS}/{{wildcards.texts}}/leakage > {{log}} 2>&1"


rule axes:
    """Principal axes of the map, and the texts at their ends."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        benchmarks=on_texts(products.benchmarks_on),
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/axes/{{file}}",
            file=ANALYSES["axes"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/axes/{{figure}}.svg",
            figure=ANALYSES["axes"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/axes/{figure}.png",
                caption=f"captions/axes-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["axes"][1].items()
        ],
    log:
        "logs/axes/{texts}.log",
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
        how=arguments.axes(CONFIG),
    shell:
        f"{SCRIPTS}/axes.py --matrix {{input.matrix}} --models {{input.models}} "
        "--benchmarks {input.benchmarks} --texts {input.texts} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/axes > {{log}} 2>&1"


rule contrast:
    """Domains and texts that carry the distance between models."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        texts=ancient(f"{RESULTS}/{{texts}}/texts.jsonl"),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/contrast/{{file}}",
            file=ANALYSES["contrast"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/contrast/{{figure}}.svg",
            figure=ANALYSES["contrast"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/contrast/{figure}.png",
                caption=f"captions/contrast-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["contrast"][1].items()
        ],
    log:
        "logs/contrast/{texts}.log",
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
        comparisons=on_texts(arguments.comparisons),
        ends=CONFIG.analyses.contrast.ends if CONFIG.analyses.contrast else 20,
    shell:
        f"{SCRIPTS}/contrast.py --matrix {{input.matrix}} --models {{input.models}} "
        "--texts {input.texts} --comparisons {params.comparisons:q} --ends {params.ends} "
        f"--folder {RESULTS}/{{wildcards.texts}}/contrast > {{log}} 2>&1"


rule robustness:
    """How far distances depend on the texts."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        others=on_texts(products.other_paths),
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/robustness/{{file}}",
            file=ANALYSES["robustness"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/robustness/{{figure}}.svg",
            figure=ANALYSES["robustness"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/robustness/{figure}.png",
                caption=f"captions/robustness-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["robustness"][1].items()
        ],
    log:
        "logs/robustness/{texts}.log",
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
        others=on_texts(arguments.others),
        how=arguments.robustness(CONFIG),
    shell:
        f"{SCRIPTS}/robustness.py --matrix {{input.matrix}} --models {{input.models}} "
        "{params.others} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/robustness > {{log}} 2>&1"


rule resample:
    """What fewer texts would cost in accuracy."""
    input:
        matrix=f"{RESULTS}/{{texts}}/matrix.h5",
        models=f"{RESULTS}/{{texts}}/models.tsv",
        layout=f"{RESULTS}/{{texts}}/layout.tsv",
        report=f"{RESULTS}/{{texts}}/layout.json",
    output:
        expand(
            f"{RESULTS}/{{{{texts}}}}/resample/{{file}}",
            file=ANALYSES["resample"][0],
        ),
        expand(
            f"{RESULTS}/{{{{texts}}}}/resample/{{figure}}.svg",
            figure=ANALYSES["resample"][1],
        ),
        [
            report(
                f"{RESULTS}/{{texts}}/resample/{figure}.png",
                caption=f"captions/resample-{figure}.rst",
                category="Text set {texts}",
                labels={"figure": title},
            )
            for figure, title in ANALYSES["resample"][1].items()
        ],
    log:
        "logs/resample/{texts}.log",
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
        how=on_texts(arguments.resample),
    shell:
        f"{SCRIPTS}/resample.py --matrix {{input.matrix}} --models {{input.models}} "
        "--layout {input.layout} --layout-report {input.report} {params.how} "
        f"--folder {RESULTS}/{{wildcards.texts}}/resample > {{log}} 2>&1"


rule analyses:
    """Every analysis that the configuration asks for."""
    input:
        products.analysis_files(PLAN),
