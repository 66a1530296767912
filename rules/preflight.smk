localrules:
    plan,
    preflight,


rule plan:
    """Every score that the configuration asks for, for preflight."""
    output:
        f"{RESULTS}/models/_plan.tsv",
    log:
        "logs/plan/plan.log",
    params:
        rows=plan_tables.score_rows(PLAN),
    run:
        header = "\t".join(plan_tables.PLAN_COLUMNS)
        write_text(Path(output[0]), "\n".join([header, *params.rows]) + "\n")


# The table goes to the terminal alone: Snakemake shows the log of a failed job a second time.
rule preflight:
    """What a run would meet, take and skip, before its first GPU minute."""
    input:
        unlocked,
        sources=f"{RESULTS}/models/_sources.tsv",
        plan=f"{RESULTS}/models/_plan.tsv",
    log:
        "logs/preflight/preflight.log",
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    shell:
        f"exec 3>&1; {SCRIPTS}/preflight.py --sources {{input.sources}} --plan {{input.plan}} "
        f"--cards {RESULTS}/models {RESOLVE_OPTIONS} {PREFLIGHT_OPTIONS} "
        f"--table {RESULTS}/preflight.tsv "
        "2>&1 >&3 | tee {log} >&2"
