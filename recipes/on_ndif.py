"""What would a study on a server that has the weights send there, and does it find the same?

Nothing is sent unless a server is named: NDIF, or any that speaks nnsight's protocol. The client has the model's
configuration and tokenizer only. Runs as it stands on the organism's; for the real thing (with your key in NDIF_API_KEY):

    python on_ndif.py --model meta-llama/Llama-3.1-70B-Instruct --data blend --server ndif
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id, or a directory the server knows by the same name; the organism if not given")
    parser.add_argument("--data", help="a name of `gatescope data list`, or JSONL; the organism's if not given")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--server", help="ndif, or an address such as http://host:port; nothing is sent if not given")
    parser.add_argument("--run", help="directory to keep jobs and results in; a client that was stopped goes on from there")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.remote.load_client(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    estimate = gs.remote.estimate_record(model, study.identification, readout=study.readout)
    print(f"recording {len(study.identification)} examples: {estimate}")
    if not options.server:
        print(
            "\nNothing was sent. With --server ndif (or an address) the examples are recorded there, neurons are selected "
            "here, and the evaluation examples are asked there again without them: accuracy changes in points, as at home."
        )
        return

    how = {"readout": study.readout, "run": options.run, "remote": True if options.server == "ndif" else options.server}
    counts = gs.record(model, study.identification, **how).with_tokens()
    chosen = gs.select.cas(counts, options.rate)
    masks = {"CAS": gs.ablate(chosen)}
    table = gs.sweep(model, study.evaluation, masks, **how)
    print(table.self_cross())
    effects = table.self_cross()["CAS"].accuracy
    print(
        f"\nOn {options.server}, switching off a group's {chosen.wanted} CAS neurons changes its own accuracy by "
        f"{effects.self_:+.1f} points and the other groups' by {effects.cross:+.1f}."
    )


if __name__ == "__main__":
    main()
