"""What would a study send to a server that has the weights, and does it find the same neurons?

Nothing is sent unless you name a server: NDIF, or any other that speaks nnsight's protocol. The client loads only the model's
configuration and tokenizer. Runs as it is with the organism's. For a real model (with your key in NDIF_API_KEY):

    python on_ndif.py --model meta-llama/Llama-3.1-70B-Instruct --data blend --server ndif
"""

import argparse

import gatescope as gs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id, or a directory that the server knows by the same name; default: the organism")
    parser.add_argument("--data", help="a name from `gatescope data list`, or JSONL; default: the organism's")
    parser.add_argument("--rate", type=float, default=0.01, help="share of all neurons to select for each group")
    parser.add_argument("--server", help="ndif, or an address such as http://host:port; by default nothing is sent")
    parser.add_argument("--run", help="directory for jobs and results, from which a client that was stopped resumes")
    options = parser.parse_args()

    organism = gs.organism.load() if not (options.model and options.data) else None
    model = gs.remote.load_client(options.model or organism.path)
    study = gs.data.load(options.data) if options.data else organism.study

    estimate = gs.remote.estimate_record(model, study.identification, readout=study.readout)
    print(f"recording {len(study.identification)} examples: {estimate}")
    if not options.server:
        print(
            "\nNothing was sent. With --server ndif (or an address), the server records these examples, neurons are selected "
            "here, and the server runs the evaluation examples with those neurons switched off. The result is the change in "
            "accuracy, in points, as on your own machine."
        )
        return

    remote = True if options.server == "ndif" else options.server
    counts = gs.record(model, study.identification, readout=study.readout, run=options.run, remote=remote).with_tokens()
    chosen = gs.select.cas(counts, options.rate)
    masks = gs.ablate({"CAS": chosen})
    table = gs.sweep(model, study.evaluation, masks, readout=study.readout, run=options.run, remote=remote)

    effects = table.self_cross()
    accuracy = effects["CAS"].accuracy
    print(effects)
    print(
        f"\nOn {options.server}, switching off a group's {chosen.wanted} CAS neurons changes its own accuracy by "
        f"{accuracy.self_:+.1f} points and the other groups' by {accuracy.cross:+.1f} points."
    )


if __name__ == "__main__":
    main()
