"""How well the span labellers find the answer tokens that the paper's authors marked with GPT-4o.

    python benchmarks/span_agreement.py --examples ../shared/data/h_neurons_examples/test.jsonl.gz
    python benchmarks/span_agreement.py --run FOLDER      sentence answers of a training run, see below

The data are the authors' own responses (thunlp/H-Neurons): token pieces, the marked pieces, the label. The lexical
locator was developed on the train split; rows that are in both splits are left out. Text and offsets are rebuilt from
the pieces. Reported: exact match, token precision, recall and F1 (means over the rows that have a span), and the share
of rows without one. Answers are 3.4 tokens long on average, so taking the whole response is a strong control.
A run's greedy answers (`questions.jsonl`, `greedy.jsonl`) have no marked spans: there the locator is compared, in code
points, with the place of the accepted answer in the right responses.
"""

import argparse
import dataclasses
import gzip
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from offline.labels.judge import judge_alias
from offline.labels.spans import CharSpan, Labeller, find_alias, find_lexical
from offline.records import Question, Response
from probes.spans import AnswerSpan, char_span_to_tokens, token_offsets

SUFFIX = " Respond with the answer only, without any explanation."


class PieceDecoder:
    """Decodes one row's raw tokenizer pieces; token ids are positions in the row."""

    def __init__(self, pieces: list[str]) -> None:
        """Keep the pieces; `Ġ` tells a byte-level vocabulary, `▁` a SentencePiece one."""
        self._is_byte_level = not any("\u2581" in piece for piece in pieces)
        self._pieces = pieces

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Return the text of some positions; the pieces hold no special tokens."""
        assert skip_special_tokens, "as the product decodes"
        assert not clean_up_tokenization_spaces, "as the product decodes"
        pieces = [self._pieces[index] for index in token_ids]
        if self._is_byte_level:
            return b"".join(_to_bytes(piece) for piece in pieces).decode("utf-8", errors="replace")
        data = b"".join(
            bytes([int(piece[3:5], 16)]) if re.fullmatch(r"<0x[0-9A-F]{2}>", piece) else piece.encode()
            for piece in pieces
        )
        return data.decode("utf-8", errors="replace").replace("\u2581", " ")


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes: printable ones as they are, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + index): byte for index, byte in enumerate(rest)}


_BYTES = _byte_letters()


def _to_bytes(piece: str) -> bytes:
    if all(letter in _BYTES for letter in piece):
        return bytes(_BYTES[letter] for letter in piece)
    return piece.encode()


def find_marked(pieces: list[str], marked: list[str]) -> list[AnswerSpan]:
    """All places where the marked pieces stand in the response."""
    length = len(marked)
    return [
        AnswerSpan(start, start + length)
        for start in range(len(pieces) - length + 1)
        if pieces[start : start + length] == marked
    ]


def compare(found: AnswerSpan, gold: AnswerSpan) -> tuple[float, float, float, float]:
    """Exact match, token precision, recall and F1 of one row."""
    shared = max(0, min(found.end, gold.end) - max(found.start, gold.start))
    precision, recall = shared / len(found), shared / len(gold)
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return float(found == gold), precision, recall, f1


def measure(rows: list[dict[str, Any]], name: str, labeller: Labeller) -> list[dict[str, Any]]:
    """Score one labeller on every row that it can be asked about."""
    scored = []
    for row in rows:
        if name == "alias" and (row["label"] != "faithful" or not row["answers"]):
            continue
        ids = tuple(range(len(row["tokenized_response"])))
        decoder = PieceDecoder(row["tokenized_response"])
        text = decoder.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        question = Question(row["id"], row["question"] + SUFFIX, tuple(row["answers"]), "h_neurons")
        response = Response(row["id"], 0, text, ids, "stop")
        gold = find_marked(row["tokenized_response"], row["answer_tokens"])
        if len(gold) != 1:
            continue
        chars: CharSpan | None = labeller(question, response)
        span = char_span_to_tokens(token_offsets(decoder, ids), *chars) if chars else None
        scored.append(row | {"text": text, "gold": gold[0], "span": span, "chars": chars})
    return scored


def report(scored: list[dict[str, Any]], name: str) -> None:
    """Print one line a model and label, and one over all."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in scored:
        groups[row["model"].split("-")[0], row["label"]].append(row)
        groups["all", row["label"]].append(row)
        groups["all", "both"].append(row)
    for (model, label), members in sorted(groups.items()):
        pairs = [compare(row["span"], row["gold"]) for row in members if row["span"]]
        exact, precision, recall, f1 = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        missing = 1 - len(pairs) / len(members)
        numbers = " ".join(f"{value:7.3f}" for value in (exact, precision, recall, f1, missing))
        print(f"{name:8} {model:8} {label:13} {len(members):6} {numbers}")


def report_run(folder: Path) -> None:
    """Compare the locator with the accepted answer's place in the right responses of a run."""
    questions: dict[str, Question] = {}
    with (folder / "questions.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            questions[row["question_id"]] = Question(**row | {"answers": tuple(row["answers"])})
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    pairs: list[tuple[float, float, float, float]] = []
    rows = overlap = 0
    with (folder / "greedy.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            question = questions[row["question_id"]]
            asked = dataclasses.replace(question, question=question.question + SUFFIX)
            response = Response(row["question_id"], 0, row["text"], (), "stop")
            verdict = judge_alias(question, response.text)[0]
            found = find_lexical(asked, response)
            counts[verdict][0] += 1
            counts[verdict][1] += found is None
            gold = find_alias(question, response) if verdict == "right" else None
            if gold and found:
                rows += 1
                overlap += max(found[0], gold[0]) < min(found[1], gold[1])
                pairs.append(compare(AnswerSpan(*found), AnswerSpan(*gold)))
    for judged, (total, missing) in sorted(counts.items()):
        print(f"{judged:10} {total:6} responses, without a span {missing / total:.3f}")
    exact, precision, recall, f1 = (sum(column) / rows for column in zip(*pairs, strict=True))
    print(f"right, lexical against the accepted answer: overlap {overlap / rows:.3f} exact {exact:.3f}")
    print(f"  code points: precision {precision:.3f} recall {recall:.3f} F1 {f1:.3f}")


def main() -> None:
    """Measure the labellers on one split or one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--examples", type=Path, help="h_neurons_examples/<split>.jsonl.gz")
    source.add_argument("--run", type=Path, help="folder of a training run")
    parser.add_argument("--show", type=int, default=0, help="print this many disagreements of the lexical locator")
    args = parser.parse_args()
    if args.run:
        report_run(args.run)
    else:
        report_examples(args.examples, args.show)


def report_examples(path: Path, show: int) -> None:
    """Measure every labeller on the authors' marked responses."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["label"] and row["answer_tokens"] and not row["in_both_splits"]]
    columns = " ".join(f"{column:>7}" for column in ("exact", "prec", "recall", "F1", "no span"))
    print(f"{'method':8} {'model':8} {'label':13} {'rows':>6} {columns}")
    for name, labeller in (("lexical", find_lexical), ("alias", find_alias), ("whole", take_whole)):
        scored = measure(rows, name, labeller)
        report(scored, name)
        if name == "lexical" and show:
            wrong = [row for row in scored if row["span"] != row["gold"]]
            for row in wrong[:: max(1, len(wrong) // show)]:
                found = row["text"][slice(*row["chars"])] if row["chars"] else None
                print(
                    f"    {row['label']} {row['question'][-60:]!r} {row['text']!r} {row['answer_tokens']} -> {found!r}"
                )


def take_whole(question: Question, response: Response) -> CharSpan | None:  # noqa: ARG001 - a labeller's signature
    """The control: the whole response without its final punctuation."""
    text = response.text.rstrip(" \n.!")
    return (0, len(text)) if text else None


if __name__ == "__main__":
    main()
