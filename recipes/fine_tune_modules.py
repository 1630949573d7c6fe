"""Does fine-tuning cost less culture where only modules without culture-general neurons are trained? (CULNIG, 4.5)

Top: the MLPs and attentions with the most culture-general neurons, until they exceed a share of the parameters; Bottom:
as many without any, drawn at random. Runs as it stands on the text organism. With the paper's settings:

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
    def together(batch):  # prompts with their answers, the loss on the answers alone
        answers = [answer_tokens(model, example) for example in batch]
        inputs = force(model, collate(model, batch), [[*ids, 0] for ids in answers])
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, ids in zip(labels, answers, strict=True):
            row[-len(ids) :] = torch.tensor(ids)
        return inputs | {"labels": labels}

    paths, module = [path for part in parts for path in part.modules], model._module
    if options.lora:
        module = get_peft_model(module, LoraConfig(r=options.lora, target_modules=paths))
    else:
        [module.get_submodule(path).requires_grad_(True) for path in paths]
    how = {"max_steps": options.steps, "learning_rate": options.lr, "per_device_train_batch_size": 16, "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **how, report_to="none", remove_unused_columns=False, dataloader_pin_memory=False)
        Trainer(module, arguments, data_collator=together, train_dataset=list(examples)).train()
    (module.merge_and_unload() if options.lora else module).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = {"model": "", "data": "", "exclude": "", "task": "larger", "share": 0.1, "lr": 3e-3}
    given |= {"steps": 60, "draws": 3, "lora": 0}
    for name, default in given.items():  # share: of parameters; draws: of Bottom; lora: rank, 0 to train the weights
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()

    organism = gs.organism.text.load() if not (options.model and options.data) else None
    tasks = dict(organism.tasks) if organism else {}
    if options.data:
        names = {"culture": options.data, "reading": options.exclude, options.task: options.task}
        tasks = {task: gs.data.load(name) for task, name in names.items() if name}
        tasks |= {"control": gs.data.load_control(options.data)}
    model = gs.load_model(options.model or organism.path)
    scores = {n: gs.attribute(model, tasks[n].identification) for n in ("culture", "control", "reading") if n in tasks}
    parts = parts_of(model, gs.select.culnig_general(scores["culture"], scores["control"], scores.get("reading")))
    total, asked, rows = model._module.num_parameters(), ("culture", options.task), {}
    chosen = {"before": (), "Top": choose(parts, int(options.share * total))}
    chosen |= {f"Bottom {i}": choose(parts, int(options.share * total), which="none", seed=i) for i in range(options.draws)}
    for name, some in chosen.items():
        model = gs.load_model(options.model or organism.path)
        if some:
            train(model, some, tasks[options.task].identification, options)
        tables = [gs.sweep(model, tasks[n].evaluation, {}, readout=tasks[n].readout) for n in asked]
        rows[name] = torch.tensor([table.accuracy().mean() for table in tables])
        accuracy = "  ".join(f"{task} {value:5.1f}%" for task, value in zip(asked, rows[name], strict=True))
        print(f"{name:9}{accuracy}  {sum(p.parameters for p in some) / total:4.0%} in {', '.join(map(str, some))}")
    top, bottom = rows["Top"] - rows["before"], torch.stack([v - rows["before"] for n, v in rows.items() if "Bottom" in n])
    mean, told = bottom.mean(0), f"{bottom[:, 0].min():+.1f} to {bottom[:, 0].max():+.1f} in {len(bottom)} draws"
    print(f"\nTraining on {options.task} changes culture by {top[0]:+.1f} points where Top is trained, by {mean[0]:+.1f} where")
    print(f"Bottom is ({told}); {options.task} itself changes by {top[1]:+.1f} and {mean[1]:+.1f}.")


if __name__ == "__main__":
    main()
