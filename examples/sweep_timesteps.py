"""Train the digits with several numbers of timesteps T and print the score of each."""

import argparse

import diffexp


def main() -> None:
    """Train one run per T, then print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", default="10,100,1000", help="the values of T [default: %(default)s]")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further keys of the config")
    arguments = parser.parse_args()

    scores = {}
    for timesteps in map(int, arguments.timesteps.split(",")):
        # DDIM visits 10 timesteps, so that every T costs the same number of network calls
        samplers = "score.samplers={ddim-50: null, ddpm: null, ddim-10: {name: ddim, steps: 10}}"
        keys = [f"name=digits-T{timesteps}", f"model.timesteps={timesteps}", samplers, "sample_grid=null"]
        outcome = diffexp.train("digits", [*keys, *arguments.overrides])
        scores[timesteps] = outcome.score.scored["ddim-10"].scores["fd"]
    print("\n   T  Fréchet distance")
    for timesteps, score in scores.items():
        print(f"{timesteps:4}  {score.value:.3f} ± {score.error:.3f}")


if __name__ == "__main__":
    main()
