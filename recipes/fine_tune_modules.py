"""Does fine-tuning cost less culture if only modules without culture-general neurons are trained? (CULNIG, 4.5)

Top: the MLPs and attentions with the most culture-general neurons, until they exceed a share of the parameters. Bottom: as
many parameters without any, drawn at random. Runs as it is on the text organism. With the paper's settings:

    python fine_tune_modules.py --model MODEL --data blend --exclude countryrc --task qnli --steps 600 --lr 3e-5
"""

import argparse
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

import gatescope as gs
from gatescope.studies.modules import choose, parts_of
from gatescope.traces.encoding import collate
from gatescope.traces.forced import force
from gatescope.traces.labels import answer_tokens


def train(model, parts, examples, options) -> None:
    def with_answers(batch):  # prompts and answers as one text; the loss is on the answers only
        answers = [answer_tokens(model, example) for example in batch]
        inputs = force(model, collate(model, batch), [[*ids, 0] for ids in answers])  # `force` drops the last token
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, ids in zip(labels, answers, strict=True):
            row[-len(ids) :] = torch.tensor(ids)
        return inputs | {"labels": labels}

    module, paths = model._module, [path for part in parts for path in part.modules]
    if options.lora:
        module = get_peft_model(module, LoraConfig(r=options.lora, target_modules=paths))
    for path in [] if options.lora else paths:
        module.get_submodule(path).requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        how = {"max_steps": options.steps, "learning_rate": options.lr, "per_device_train_batch_size": 16}
        off = {"save_strategy": "no", "report_to": "none", "remove_unused_columns": False, "dataloader_pin_memory": False}
        arguments = TrainingArguments(folder, **how, **off)
        Trainer(module, arguments, data_collator=with_answers, train_dataset=list(examples)).train()
    (module.merge_and_unload() if options.lora else module).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"model": "", "data": "", "exclude": "", "task": "larger", "steps": 60, "lr": 3e-3}
    defaults |= {"share": 0.1, "draws": 3, "lora": 0}  # of the parameters; of Bottom; LoRA's rank, or 0 to train the weights
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    organism = gs.organism.text.load() if not (options.model and options.data) else None
    tasks = {} if options.data else organism.tasks
    if options.data:
        names = {"culture": options.data, "reading": options.exclude, options.task: options.task}
        tasks = {task: gs.data.load(name) for task, name in names.items() if name}
        tasks["control"] = gs.data.load_control(options.data)
    source, compared = options.model or organism.path, (tasks["culture"], tasks[options.task])
    model = gs.load_model(source)
    scores = {n: gs.attribute(model, tasks[n].identification) for n in ("culture", "control", "reading") if n in tasks}
    parts = parts_of(model, gs.select.culnig_general(scores["culture"], scores["control"], scores.get("reading")))
    budget = int(options.share * model._module.num_parameters())
    runs = [("before", ()), ("Top", choose(parts, budget))]
    runs += [("Bottom", choose(parts, budget, which="none", seed=seed)) for seed in range(options.draws)]
    accuracies = {"before": [], "Top": [], "Bottom": []}
    for name, chosen in runs:
        model = gs.load_model(source)
        if chosen:
            train(model, chosen, tasks[options.task].identification, options)
        culture, task = (gs.sweep(model, study.evaluation, {}, readout=study.readout).accuracy().mean() for study in compared)
        accuracies[name].append(torch.stack([culture, task]))
        print(f"{name:7} culture {culture:5.1f}%, {options.task} {task:5.1f}%, trained: {', '.join(map(str, chosen)) or '-'}")
    for name in ("Top", "Bottom"):
        culture, task = torch.stack(accuracies[name]).mean(0) - accuracies["before"][0]
        print(f"Training {name} changes culture by {culture:+.1f} points and {options.task} by {task:+.1f} points, on average.")


if __name__ == "__main__":
    main()
