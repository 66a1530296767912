localrules:
    status,
    efficiency,


rule status:
    """What a run is doing: done, at work, waiting, failed, and the GPU hours of it."""
    input:
        unlocked,
        plan=f"{RESULTS}/models/_plan.tsv",
    log:
        "logs/status/status.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        f"exec 3>&1; {SCRIPTS}/status.py --plan {{input.plan}} --results {RESULTS} "
        f"{PREFLIGHT_OPTIONS} --table {RESULTS}/status.tsv "
        "2>&1 >&3 | tee {log} >&2"


rule efficiency:
    """What finished scores have cost: time, speed and memory."""
    input:
        unlocked,
    log:
        "logs/efficiency/efficiency.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        f"exec 3>&1; {SCRIPTS}/efficiency.py --results {RESULTS} "
        f"--gpu-memory-gb {CONFIG.hardware.gpu_memory_gb!r} "
        "2>&1 >&3 | tee {log} >&2"
