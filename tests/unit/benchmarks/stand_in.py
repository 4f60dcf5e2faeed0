"""A stand-in for a checkout of the official code: other code with the same command lines, file layout and output.

Its features come from `tests.reference.official_cett`, its classifier from scikit-learn. It reads the template call's
answer as a tensor, as the official script does, and a key's label from the group of ids that holds it.
"""

from textwrap import dedent

EXTRACTION = """
    import argparse, json, pathlib
    import numpy, torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from tests.reference.official_cett import official_cett, official_region

    def get_region_indices(ids, tokenizer, question, response, wanted):
        pieces = [tokenizer.decode([token]) for token in ids[0].tolist()]
        begin = tokenizer.apply_chat_template([{"role": "user", "content": question}], return_tensors="pt").shape[1]
        places = [at for at in range(begin, len(pieces)) if wanted and pieces[at : at + len(wanted)] == wanted]
        return {"answer_tokens": (places[0], places[0] + len(wanted)) if places else None}

    def main():
        parser = argparse.ArgumentParser()
        for option in ("model_path", "input_path", "train_ids_path", "output_root"):
            parser.add_argument("--" + option, required=True)
        parser.add_argument("--locations", nargs="+")
        args = parser.parse_args()
        tokenizer = AutoTokenizer.from_pretrained(args.model_path)
        model = AutoModelForCausalLM.from_pretrained(args.model_path, torch_dtype=torch.bfloat16, device_map="auto")
        ids = json.loads(pathlib.Path(args.train_ids_path).read_text())
        for line in pathlib.Path(args.input_path).read_text(encoding="utf-8").splitlines():
            (key, row), = json.loads(line).items()
            if key not in ids["t"] + ids["f"]:
                continue
            turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["response"]}]
            tokens = tokenizer.apply_chat_template(turns, return_tensors="pt", add_generation_prompt=False)
            cett = official_cett(model, tokens[0].tolist())
            found = get_region_indices(tokens, tokenizer, row["question"], row["response"], row["answer_tokens"])
            start, end = found["answer_tokens"]
            rest = torch.cat([cett[:, :start], cett[:, end:]], dim=1)
            parts = {"answer_tokens": official_region(cett, start, end), "all_except_answer_tokens": rest.mean(dim=1)}
            for location in args.locations:
                folder = pathlib.Path(args.output_root, location)
                folder.mkdir(parents=True, exist_ok=True)
                numpy.save(folder / f"act_{key}.npy", parts[location].numpy())
"""

CLASSIFIER = """
    import argparse, json, pathlib
    import joblib, numpy
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    parser = argparse.ArgumentParser()
    for option in "train_ids train_ans_acts train_other_acts test_ids test_acts save_model load_model".split():
        parser.add_argument("--" + option)
    for option, kind in {"model_path": str, "train_mode": str, "penalty": str, "C": float}.items():
        parser.add_argument("--" + option, type=kind)
    args = parser.parse_args()

    def read(ids, *folders):
        groups = json.loads(pathlib.Path(ids).read_text())
        rows = [(folder, key, int(name == "f" and folder is folders[0]))
                for folder in folders for name in "ft" for key in groups[name]]
        features = [numpy.load(f"{folder}/act_{key}.npy").ravel() for folder, key, _ in rows]
        return numpy.array(features), numpy.array([label for *_, label in rows])

    if args.load_model:
        model = joblib.load(args.load_model)
    else:
        others = [args.train_other_acts] if args.train_mode == "3-vs-1" else []
        features, labels = read(args.train_ids, args.train_ans_acts, *others)
        model = LogisticRegression(C=args.C, solver="liblinear").fit(features, labels)
        joblib.dump(model, args.save_model)
        print("--- Results: Training Set ---")
        print("Accuracy:  0.1234")
        print("AUROC:     0.1234")
    features, labels = read(args.test_ids, args.test_acts)
    print("--- Results: Test Set ---")
    print(f"Accuracy:  {model.score(features, labels):.4f}")
    print("Precision: 0.0000")
    print(f"AUROC:     {roc_auc_score(labels, model.predict_proba(features)[:, 1]):.4f}")
"""


def write_stand_in(folder):
    """Returns the folder, which then looks like a checkout."""
    scripts = folder / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "extract_activations.py").write_text(dedent(EXTRACTION), encoding="utf-8")
    (scripts / "classifier.py").write_text(dedent(CLASSIFIER), encoding="utf-8")
    return folder
