"""The report of a run: every number in `report.json`, and `report.html` to read them with.

`report.html` is one file: styles, figures and the few lines of script are inside, and a content
policy in its head forbids it to load anything. Corpus text is escaped wherever it is shown.

`write.write_report(run_dir, data)` takes one dictionary and writes both files:

    {
      "run": {                          what was run; every key is optional and shown as it is given
        "title": str,                   heading of the page, e.g. "demo"
        "command": str,                 the command line that makes this run again
        "model": str, "model_fingerprint": str, "tokenizer_fingerprint": str,
        "text": str, "text_fingerprint": str,
        "store": str, "store_fingerprint": str, "sites": [str], "context": int, "tokens": int,
        "split": str,                   the split that the numbers below come from, e.g. "test"
        "seed": int, "sparsescope": str,
        "versions": {name: str},        python, torch, ...
        "machine": str,                 e.g. "2 cores, 15.6 GiB"
        ...                             any other key with a JSON value
      },
      "stages": {name: {"seconds": float, "peak_rss_bytes": int}},      in the order they ran
      "dictionaries": [entry, ...],     `Evaluation` objects or their `to_dict()`
      "features": [                     optional; each from `contexts.top_contexts(...)`
        {"dictionary": str, "method": str, "site": str, "l0": float | None,
         "latents": [{"latent": int, "density": float, "maximum": float,
                      "contexts": [{"document": int, "peak": int, "tokens": [str], "values": [float]}]}]}
      ],
      "interpretation": {...},          optional: summary of `sparsescope explain`, see `study.summary`
      "patching": {...},                optional: summary of `sparsescope ioi`, see `study.ioi_summary`
      "circuits": [{...}]               optional: see `causal.circuits.Circuit.to_dict`
    }

An entry of "dictionaries" has at least: name, method, site, n_latents, seed, l1, k, fvu, l0, alive,
ce_clean, ce_spliced, ce_zero, ce_mean, ce_recovered, path; that of a transcoder also output_site; an interval is
`{"value", "low", "high", "n"}`, with null for an end that the data do not bound. All `ce_*` are null
when no model was given. Other keys are kept.
"""
