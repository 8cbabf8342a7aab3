"""What other programs make of the same items: lm-evaluation-harness, sacrebleu, transformers. Writes tests/fixtures/evaluate.

usage: evaluate.py [OUT]     needs the environment of `setup.sh DIR full`; runs on the CPU, offline, in two minutes

The questions are this project's own: facts about everyday things, put together by pattern. They have the fields of the published sets.
"""

import json
import math
import os
import pathlib
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests/fixtures/evaluate"
MODEL = ROOT / "atlas/demo/model"
SENTENCES = ROOT / "atlas/demo/sentences"

WORDS = {
    "eng_Latn": {
        "passage": "{who} went to the {where} on {day} and bought {n} {what}. It was cold, and the way home was long.",
        "questions": [
            ("What did {who} buy?", "what"),
            ("Where did {who} go?", "where"),
            ("On which day did {who} go out?", "day"),
        ],
        "who": ["Anna", "Peter", "Maria", "John"],
        "where": ["market", "station", "school", "harbour"],
        "day": ["Monday", "Tuesday", "Friday", "Sunday"],
        "what": ["apples", "books", "candles", "fish"],
    },
    "fra_Latn": {
        "passage": "{who} est allé au {where} {day} et a acheté {n} {what}. Il faisait froid et le chemin du retour était long.",
        "questions": [
            ("Qu'est-ce que {who} a acheté ?", "what"),
            ("Où est allé {who} ?", "where"),
            ("Quel jour {who} est-il sorti ?", "day"),
        ],
        "who": ["Luc", "Pierre", "Marc", "Jean"],
        "where": ["marché", "port", "village", "jardin"],
        "day": ["lundi", "mardi", "vendredi", "dimanche"],
        "what": ["pommes", "livres", "bougies", "poissons"],
    },
    "deu_Latn": {
        "passage": "{who} ging am {day} zum {where} und kaufte {n} {what}. Es war kalt, und der Weg nach Hause war weit.",
        "questions": [
            ("Was kaufte {who}?", "what"),
            ("Wohin ging {who}?", "where"),
            ("An welchem Tag ging {who} aus?", "day"),
        ],
        "who": ["Anna", "Peter", "Maria", "Hans"],
        "where": ["Markt", "Bahnhof", "Hafen", "Garten"],
        "day": ["Montag", "Dienstag", "Freitag", "Sonntag"],
        "what": ["Äpfel", "Bücher", "Kerzen", "Fische"],
    },
    "rus_Cyrl": {
        "passage": "{who} пошёл на {where} в {day} и купил {n} {what}. Было холодно, и дорога домой была длинной.",
        "questions": [
            ("Что купил {who}?", "what"),
            ("Куда пошёл {who}?", "where"),
            ("В какой день {who} вышел из дома?", "day"),
        ],
        "who": ["Иван", "Пётр", "Олег", "Антон"],
        "where": ["рынок", "вокзал", "завод", "берег"],
        "day": ["понедельник", "вторник", "четверг", "воскресенье"],
        "what": ["яблок", "книг", "свечей", "рыб"],
    },
}


def facts(code, count):
    """Facts, each with one question; which word is where follows from the number."""
    words = WORDS[code]
    for i in range(count):
        pick = {key: words[key][(i * step + i // 4) % 4] for key, step in zip(("who", "where", "day", "what"), (1, 3, 1, 3))}
        question, asked = words["questions"][i % 3]
        options = [words[asked][(j + i) % 4] for j in range(4)]
        yield words["passage"].format(n=i + 2, **pick), question.format(**pick), options, options.index(pick[asked])


def belebele(code):
    for i, (passage, question, options, right) in enumerate(facts(code, 12)):
        yield {
            "link": f"https://example.org/{code}/{i // 3}", "question_number": i % 3 + 1, "flores_passage": passage,
            # The harness strips questions.
            "question": question + (" " if i % 5 == 0 else ""),
            **{f"mc_answer{j + 1}": option for j, option in enumerate(options)},
            "correct_answer_num": str(right + 1), "dialect": code, "ds": "2026-01-01",
        }


def arc():
    for i, (passage, question, options, right) in enumerate(facts("eng_Latn", 12)):
        labels = ["A", "B", "C", "D"] if i % 2 else ["1", "2", "3", "4"]
        # Three answers in some, and answers of several words.
        options = [f"{option} and nothing else" if (i + j) % 3 == 0 else option for j, option in enumerate(options)]
        kept = [j for j in range(4) if j == right or i % 4 or j != (right + 1) % 4]
        yield {
            "id": f"fact_{i}", "question": f"{passage} {question}",
            "choices": {"text": [options[j] for j in kept], "label": [labels[j] for j in kept]}, "answerKey": labels[right],
        }


def hellaswag():
    for i, (passage, _, options, right) in enumerate(facts("eng_Latn", 8)):
        first, second = passage.split(". ", 1)
        yield {
            "ind": i, "activity_label": "Going out", "ctx_a": first + ".", "ctx_b": "then THEY" if i % 2 else "",
            "endings": [f"[header] carry {option} home. [title] They sleep  well [substeps]." for option in options], "label": str(right),
        }


def piqa():
    for i, (_, question, options, right) in enumerate(facts("eng_Latn", 8)):
        yield {"goal": question, "sol1": options[right] + ", of course.", "sol2": options[right - 1] + ".", "label": 0}


def xnli():
    for i, (passage, _, options, right) in enumerate(facts("fra_Latn", 9)):
        yield {"premise": passage, "hypothesis": f"Il y avait des {options[right]}.", "label": i % 3}


def sib200():
    topics = ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"]
    lines = (SENTENCES / "mlt_Latn.txt").read_text().splitlines()
    for i, text in enumerate(lines[:10]):
        yield {"index_id": i, "category": topics[i % 7], "text": text}


def global_mmlu():
    for i, (passage, question, options, right) in enumerate(facts("deu_Latn", 8)):
        letters = dict(zip(("option_a", "option_b", "option_c", "option_d"), options))
        yield {"sample_id": f"facts/test/{i}", "subject": "facts", "question": f"{passage} {question} ", **letters, "answer": "ABCD"[right]}


def mmlu():
    for passage, question, options, right in facts("eng_Latn", 8):
        yield {"question": f"{passage} {question}", "subject": "facts", "choices": options, "answer": right}


EXAM = "{{question.strip()}}\nA. {{%s}}\nB. {{%s}}\nC. {{%s}}\nD. {{%s}}\nAnswer:"
LETTERS = {"doc_to_choice": ["A", "B", "C", "D"]}


def task_configs():
    """Task, file, and what lm-evaluation-harness' own configuration of the set says, but for where the items are."""
    import lm_eval.tasks.hellaswag.utils as of_hellaswag

    passage = "P: {{flores_passage}}\nQ: {{question.strip()}}\nA: {{mc_answer1}}\nB: {{mc_answer2}}\nC: {{mc_answer3}}\nD: {{mc_answer4}}\nAnswer:"
    for code in WORDS:
        target = "{{['1', '2', '3', '4'].index(correct_answer_num)}}"
        yield f"belebele/{code}", {"doc_to_text": passage, "doc_to_target": target, **LETTERS}
    yield "arc/eng_Latn", {
        "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}",
    }
    yield "hellaswag/eng_Latn", {
        "process_docs": of_hellaswag.process_docs, "doc_to_text": "{{query}}", "doc_to_target": "{{label}}", "doc_to_choice": "choices",
    }
    yield "piqa/eng_Latn", {
        "doc_to_text": "Question: {{goal}}\nAnswer:", "doc_to_target": "label", "doc_to_choice": "{{[sol1, sol2]}}",
    }
    yield "xnli/fra_Latn", {
        "doc_to_text": "", "doc_to_target": "label",
        "doc_to_choice": '{{[premise+", correct? Oui, "+hypothesis,premise+", correct? Aussi, "+hypothesis,premise+", correct? Non, "+hypothesis]}}',
    }
    yield "sib200/mlt_Latn", {
        "doc_to_text": "Given the categories science/technology, travel, politics, sports, health, entertainment, or geography; what category does the text: '{{text}}' belong to: \n\n",
        "doc_to_target": "category",
        "doc_to_choice": ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"],
    }
    options = ("option_a", "option_b", "option_c", "option_d")
    yield "global-mmlu/deu_Latn", {"doc_to_text": EXAM % options, "doc_to_target": "answer", **LETTERS}
    choices = tuple(f"choices[{i}]" for i in range(4))
    yield "mmlu/eng_Latn", {"doc_to_text": EXAM % choices, "doc_to_target": "answer", **LETTERS}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def items():
    for code in WORDS:
        write_lines(OUT / f"belebele/{code}.jsonl", belebele(code))
    write_lines(OUT / "arc/eng_Latn.jsonl", arc())
    write_lines(OUT / "hellaswag/eng_Latn.jsonl", hellaswag())
    write_lines(OUT / "piqa/eng_Latn.jsonl", piqa())
    write_lines(OUT / "xnli/fra_Latn.jsonl", xnli())
    write_lines(OUT / "sib200/mlt_Latn.jsonl", sib200())
    write_lines(OUT / "global-mmlu/deu_Latn.jsonl", global_mmlu())
    write_lines(OUT / "mmlu/eng_Latn.jsonl", mmlu())


def harness(max_length):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=8, max_length=max_length)


def choices():
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = {}
    # At 48 tokens every prompt of Belebele is cut from the left.
    for length in (512, 48):
        model = harness(length)
        for name, config in task_configs():
            if length == 48 and not name.startswith("belebele/eng"):
                continue
            task = {
                "task": name.replace("/", "_"), "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test",
                "dataset_kwargs": {"data_files": {"test": str(OUT / f"{name}.jsonl")}},
                "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm", "acc_bytes")],
                **config,
            }
            result = simple_evaluate(model, tasks=[task], num_fewshot=0, log_samples=True, bootstrap_iters=1, task_manager=TaskManager())
            key = task["task"]
            samples = sorted(result["samples"][key], key=lambda sample: sample["doc_id"])
            scores = result["results"][key]
            found[f"{name}@{length}"] = {
                "log_likelihoods": [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples],
                **{metric: [scores[f"{metric},none"], scores[f"{metric}_stderr,none"]] for metric in ("acc", "acc_norm", "acc_bytes")},
            }
    write_json("lm_eval.json", found)


def perplexity():
    """Documents of all lengths by the harness' rolling log-likelihood, at a context that most are longer than."""
    from lm_eval.api.instance import Instance

    texts = {}
    for code in ("mlt_Latn", "kat_Geor", "zho_Hans"):
        lines = (SENTENCES / f"{code}.txt").read_text().splitlines()
        texts[code] = [" ".join(lines[start : start + size]) for start, size in ((0, 1), (1, 2), (3, 5), (8, 12), (20, 1), (21, 19))]
    model = harness(64)
    found = {}
    for code, documents in texts.items():
        write_lines(OUT / f"documents/{code}.jsonl", ({"text": text} for text in documents))
        requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in documents]
        nll = [-value for value in model.loglikelihood_rolling(requests)]
        found[code] = {"nll": nll, "tokens": [len(model.tok_encode(text)) for text in documents], "bytes": [len(text.encode()) for text in documents]}
        total = sum(nll) / sum(found[code]["bytes"]) / math.log(2)
        # The standard error of the ratio by leaving each document out: another formula for the same thing.
        n = len(nll)
        without = [(sum(nll) - a) / (sum(found[code]["bytes"]) - b) / math.log(2) for a, b in zip(nll, found[code]["bytes"])]
        mean = sum(without) / n
        found[code]["bits_per_byte"] = total
        found[code]["jackknife"] = math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))
    write_json("perplexity.json", found)


def alignment():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    states = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out))

    def pooled(text):
        states.clear()
        ids = [model.config.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            model(torch.tensor([ids]))
        return np.stack([state[0, 1:].mean(0).double().numpy() for state in states])

    found, read = {}, lambda code: [pooled(line) for line in (SENTENCES / f"{code}.txt").read_text().splitlines()]
    english = np.stack(read("eng_Latn"), 1)
    for code in ("mlt_Latn", "swh_Latn"):
        other, layers = np.stack(read(code), 1), []
        for a, b in zip(english, other):
            a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
            cosines = a @ b.T
            n = len(cosines)
            rng, draws = np.random.default_rng(0), []
            for _ in range(2000):
                drawn = rng.integers(n, size=n)
                block = cosines[np.ix_(drawn, drawn)]
                differ = drawn[:, None] != drawn[None, :]
                draws.append(np.diag(block).mean() - block[differ].mean())
            off = (cosines.sum() - np.trace(cosines)) / (n * (n - 1))
            layers.append({"matched": np.trace(cosines) / n, "mismatched": off, "stderr": float(np.std(draws, ddof=1))})
        found[code] = layers
    write_json("alignment.json", found)


def translations():
    """Hypotheses and references in many scripts and at the edges of what can be scored."""
    from sacrebleu.metrics import BLEU, CHRF

    cases = []
    for code in ("eng_Latn", "mlt_Latn", "deu_Latn", "ell_Grek", "rus_Cyrl", "arb_Arab", "heb_Hebr", "hin_Deva", "ben_Beng", "tam_Taml", "tha_Thai",
                 "kat_Geor", "hye_Armn", "amh_Ethi", "khm_Khmr", "mya_Mymr", "kor_Hang", "jpn_Jpan", "zho_Hans", "zho_Hant", "vie_Latn", "yor_Latn", "bod_Tibt", "urd_Arab"):
        path = SENTENCES / f"{code}.txt"
        if not path.exists():
            continue
        lines = path.read_text().splitlines()[:12]
        # Half right: words or letters dropped, turned round, said twice.
        worse = lambda i, text: [text, text[: len(text) // 2], " ".join(reversed(text.split())), text.replace(" ", ""), text + " " + text, text[1:] + "!"][i % 6]
        cases.append((code, [worse(i, line) for i, line in enumerate(lines)], lines))
    edges = {
        "empty hypothesis": ([""], ["A sentence."]), "empty reference": (["A sentence."], [""]), "both empty": ([""], [""]),
        "one word": (["word"], ["word"]), "one letter": (["a"], ["a"]), "one other word": (["wrong"], ["right"]), "one ideograph": (["水"], ["水"]),
        "an empty one among others": (["", "the cat sat on the mat today"], ["a dog", "the cat sat on the mat now"]),
        "marks": (['"Hello," she said (quietly); it\'s 3.5% - or 1,000.50!'], ['"Hello", she said (quietly): it is 3.5 % – or 1,000.5!']),
        "numbers and dashes": (["1990-1995 cost 5-6 $, a-b 1.2.3, 7,8. 9-"], ["1990 - 1995 cost 5-6 $, a-b 1.2.3 7,8 . 9-"]),
        "entities": (["a &amp; b &lt; c &gt; d &quot;e&quot; &amp;lt;"], ["a & b < c > d \"e\" &lt;"]),
        "skipped and line breaks": (["a <skipped> hy-\nphen and\nline  "], ["a hyphen and line"]),
        "stops in a row": (["wait... what?! no.. yes,, 1..2 a.,b"], ["wait … what ? ! no .. yes, 1.2 a., b"]),
        "spaces of all kinds": (["a\u00a0b\u3000c\td  e\u200bf\x1cg\u2003h"], ["a b c d ef g h"]),
        "combining marks": (["e\u0301le\u0300ve na\u0308\u0131ve"], ["élève näıve"]), "outside the first plane": (["😀 👩‍👩‍👧 𝒳 word"], ["😀 👩‍👧 𝒳 words"]),
        "right to left with marks": (["\u200fשלום, עולם!\u200e"], ["שלום עולם!"]), "mark alone": (["!"], ["!"]), "two marks": (["(?)"], ["(!)"]),
        "no fourgram": (["a b c"], ["a b c"]), "one fourgram": (["a b c d"], ["a b c d"]), "longer": (["a b c d e f g h i j"], ["a b c d"]), "shorter": (["a b c d"], ["a b c d e f g h i j"]),
        "said again and again": (["the the the the the the"], ["the cat is on the mat"]),
    }
    cases += [(name, *texts) for name, texts in edges.items()]
    every = [case for case in cases if case[0] in edges]
    cases.append(("all edges together", [text for case in every for text in case[1]], [text for case in every for text in case[2]]))
    chrf, bleu = CHRF(word_order=2), BLEU(tokenize="13a")
    write_json("sacrebleu.json", [
        {"name": name, "hypotheses": hypotheses, "references": references,
         "chrf++": chrf.corpus_score(hypotheses, [references]).score, "bleu": bleu.corpus_score(hypotheses, [references]).score}
        for name, hypotheses, references in cases
    ])


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    items()
    translations()
    perplexity()
    alignment()
    choices()
