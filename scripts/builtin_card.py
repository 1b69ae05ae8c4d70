"""Measure the builtin model and write its card beside the weights.

    python scripts/builtin_card.py --books BOOKS_DIR --model work/builtin/model --training work/builtin/training.json

Held-out documents only. Bits per byte are compared with an interpolated Kneser-Ney 5-gram model over
the same tokens, trained on the same source (so three specialists against one generalist), and with
`xz -9`. Indirect object identification is examined with names that never occur in a training sentence
of giving, on trained and on held-out surface forms.
"""

import argparse
import json
import lzma
import random
from pathlib import Path

import numpy as np
import torch
from kneser_ney import KneserNey
from train_builtin import CONTEXT, encode, source_texts

import sparsescope as ss
from sparsescope.text.giving import held_out_forms, surface_forms
from sparsescope.text.lexicon import COLOURS, GIVING_NAMES, OTHER_NAMES, PLACES, QUALITIES, THINGS

HELD_OUT_TOKENS = 60_000  # a source, at most
STORIES_FOR_NGRAMS = 80_000  # 8.8 million tokens: what the language model saw
PROMPTS = 200  # a surface form


def bits(model, ids: np.ndarray) -> float:
    """Total bits of every token after the first: windows of a full context, moved by half of one."""
    total, half = 0.0, CONTEXT // 2
    starts = list(range(0, max(len(ids) - half - 1, 1), half))
    for first in range(0, len(starts), 16):
        for start in starts[first : first + 16]:
            window = torch.from_numpy(ids[start : start + CONTEXT].astype(np.int64))[None]
            logits = model.logits(window)[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
            total += losses[0 if start == 0 else half - 1 :].sum().item()
    return total / np.log(2)


def ioi_prompts(form: str, names: tuple[str, ...], count: int, seed: int) -> list[tuple[str, str, str]]:
    """(prompt, indirect object, subject), half of each order of mention."""
    chance = random.Random(f"{seed} {form}")
    prompts = []
    for number in range(count):
        a, b = chance.sample(names, 2)
        subject, other = (a, b) if number % 2 else (b, a)
        prompt = form.removesuffix(" {o}").format(
            a=a,
            b=b,
            s=subject,
            place=chance.choice(PLACES),
            thing=chance.choice(THINGS),
            thing2=chance.choice(THINGS),
            quality=chance.choice(QUALITIES),
            colour=chance.choice(COLOURS),
        )
        prompts.append((prompt, other, subject))
    return prompts


def ioi(model, form: str, names: tuple[str, ...], seed: int = 0) -> dict[str, float]:
    """Accuracy (right name above wrong name), mean logit difference, and how often the right name comes first."""
    prompts = ioi_prompts(form, names, PROMPTS, seed)
    encode_ = model.tokenizer
    right, differences, top = 0, [], 0
    for prompt, other, subject in prompts:
        ids = torch.tensor([[encode_.bos_token_id, *encode_(prompt, add_special_tokens=False).input_ids]])
        logits = model.logits(ids)[0, -1].float()
        io, s = (encode_(f" {name}", add_special_tokens=False).input_ids[0] for name in (other, subject))
        differences.append((logits[io] - logits[s]).item())
        right += differences[-1] > 0
        top += logits.argmax().item() == io
    return {
        "accuracy": right / len(prompts),
        "logit_difference": float(np.mean(differences)),
        "first_choice": top / len(prompts),
    }


def language(model, books: Path) -> dict[str, dict[str, float]]:
    """Bits per byte of the model, of 5-grams and of xz, by source."""
    tokenizer = model.tokenizer
    trained = source_texts(books, held_out=False, n_stories=STORIES_FOR_NGRAMS)
    figures = {}
    for source, documents in source_texts(books, held_out=True, n_stories=600).items():
        held_out, size, count = [], 0, 0
        for document in documents:
            held_out.append(encode(tokenizer, [document]))
            size += len(document.encode())
            count += len(held_out[-1])
            if count >= HELD_OUT_TOKENS:
                break
        text = "".join(documents[: len(held_out)]).encode()
        ngrams = KneserNey(encode(tokenizer, trained[source]), order=5)
        figures[source] = {
            "held_out_bytes": size,
            "held_out_tokens": count,
            "model": sum(bits(model, ids) for ids in held_out) / size,
            "five_gram": sum(ngrams.bits(ids) for ids in held_out) / size,
            "xz": 8 * len(lzma.compress(text, preset=9)) / size,
        }
        print(source, figures[source], flush=True)
    return figures


def identification(model) -> dict[str, dict[str, dict[str, float]]]:
    """IOI by form: a sample of the trained ones and every held-out one, with held-out names."""
    trained = random.Random(0).sample(surface_forms(), 20)
    return {
        "trained forms, held-out names": {form: ioi(model, form, OTHER_NAMES) for form in trained},
        "trained forms, trained names": {form: ioi(model, form, GIVING_NAMES) for form in trained},
        "held-out forms, trained names": {form: ioi(model, form, GIVING_NAMES) for form in held_out_forms()},
        "held-out forms, held-out names": {form: ioi(model, form, OTHER_NAMES) for form in held_out_forms()},
    }


def mean(rows: dict[str, dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows.values()]))


def card(training: dict, figures: dict, forms: dict, parameters: int) -> str:
    lines = [
        "# builtin:tiny",
        "",
        f"A GPT-NeoX language model (Pythia's class) of {parameters:,} parameters: {training['layers']} layers, width "
        f"{training['width']}, {training['heads']} heads, context {CONTEXT}, byte-level BPE of 4,096 tokens, fp16 "
        f"weights. Trained by `scripts/train_builtin.py` (seed {training['seed']}, {training['steps']:,} steps, "
        f"{training['tokens']:,} tokens) on 43 public-domain English books (half of the tokens), the documentation "
        "that comes with Python (15%) and generated stories (35%). It exists to be looked into, not to be useful.",
        "",
        "## Bits per byte on held-out text (lower is better)",
        "",
        "Every 20th document is held out; held-out stories come from another seed. The 5-gram is interpolated "
        "Kneser-Ney over the same tokens, one model trained on each source.",
        "",
        "| source | held-out tokens | model | 5-gram | `xz -9` |",
        "|---|---|---|---|---|",
        *(
            f"| {source} | {f['held_out_tokens']:,} | **{f['model']:.3f}** | {f['five_gram']:.3f} | {f['xz']:.3f} |"
            for source, f in figures.items()
        ),
        "",
        "## Indirect object identification",
        "",
        f"{PROMPTS} prompts a form, half ABBA, half BABA. Accuracy: the logit of the right name exceeds that of the "
        "other name in the sentence. Held-out names are frequent in training text but never in a sentence of giving. "
        "Held-out forms have an opening or a clause, or both, that never occur in training.",
        "",
        "| | forms | accuracy | mean logit difference | right name is first choice |",
        "|---|---|---|---|---|",
    ]
    keys = ("accuracy", "logit_difference", "first_choice")
    for group, rows in forms.items():
        accuracy, difference, first = (mean(rows, key) for key in keys)
        lines.append(f"| {group} | {len(rows)} | {accuracy:.1%} | {difference:.2f} | {first:.1%} |")
    for group, rows in forms.items():
        lines += [
            "",
            f"### {group[0].upper() + group[1:]}",
            "",
            "| form | accuracy | logit difference |",
            "|---|---|---|",
        ]
        lines += [f"| {form} | {row['accuracy']:.1%} | {row['logit_difference']:.2f} |" for form, row in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--books", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--training", required=True, type=Path, help="training.json of the run")
    args = parser.parse_args()
    with torch.inference_mode():
        model = ss.load_model(str(args.model))
        forms = identification(model)
        for group, rows in forms.items():
            print(group, {key: round(mean(rows, key), 4) for key in ("accuracy", "logit_difference")}, flush=True)
        figures = language(model, args.books)
    training = json.loads(args.training.read_text())
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    (args.model / "MODEL_CARD.md").write_text(card(training, figures, forms, parameters))
    (args.model / "figures.json").write_text(json.dumps({"language": figures, "ioi": forms}, indent=1) + "\n")


if __name__ == "__main__":
    main()
