"""klmap: maps of language models.

Every model is scored on one fixed set of texts; the vector of its log-likelihoods is its place on
the map, and squared distances between places are KL divergences in bits per byte.

    config.yaml --> texts, published -----+            +--> analyses
                +-> resolve --> fetch --> score --> matrix --> kl --> layout, tree --> figures, map.html

<source> is a model and its revision, <model> a source with its variant, <fp> twelve hexadecimal digits:
    results/models/<source>/card.json            what the model is, and which commit
    results/models/<source>/weights/             temporary: gone when its last score is there
    results/<texts>/texts.jsonl, texts.json      the texts; <texts>.<edit> with other prompts
    results/<texts>/scores/<model>.<fp>.h5       one model's log-likelihoods
    results/<texts>/matrix.h5, kl.h5             all models; all distances; tables beside them
    results/<texts>/figures/, map.html           what to look at; analyses in folders of their names
    results/published/<release>/                 which models others have scored, and how

Stages one can ask for by name: preflight (what a run would meet), scores, map and analyses (both are
the default), status, efficiency (what scores cost), refresh (have models moved?), prune (old scores).
"""

from snakemake.utils import min_version

min_version("9.0")


# A configuration given with --configfile stands alone; it is not laid over the demo's.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/texts.smk"
include: "rules/published.smk"
include: "rules/demo.smk"
include: "rules/models.smk"
include: "rules/preflight.smk"
include: "rules/score.smk"
include: "rules/status.smk"
include: "rules/matrix.smk"
include: "rules/maps.smk"
include: "rules/analyses.smk"
include: "rules/relations.smk"
include: "rules/prompts.smk"
include: "rules/mixture.smk"


wildcard_constraints:
    texts=TEXTS_PATTERN,
    release=NAME_PATTERN,
    source=SOURCE_PATTERN,
    model=MODEL_PATTERN,
    fp=FINGERPRINT_PATTERN,


rule all:
    default_target: True
    input:
        [*rules.map.input, *rules.analyses.input],
