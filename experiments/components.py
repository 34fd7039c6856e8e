"""In which directions an image may differ: `python -m experiments.components`, a figure of the paper.

Noisy images of a trained low-rank model, their posterior mean, standard deviation and leading principal components; and
walks along them from the mean of one of the images, by default that whose first component has the largest variance.
"""

import math
from pathlib import Path

import torch

import evaluation
import inference
from configs import UserError
from experiments.harness import argument_parser, number_from_zero, open_run, run, save_figure, whole_number

__all__ = ["main"]


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser("experiments.components", __doc__, seed=0, noise=1.0)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mnist"), help="run folder")
    parser.add_argument("--images", type=whole_number, default=10)
    parser.add_argument("--components", type=whole_number, default=5)
    parser.add_argument("--refine", type=number_from_zero, default=1, help="steps of it, see inference")
    parser.add_argument("--walk", type=number_from_zero, help="which image the walks start from")
    args = parser.parse_args(arguments)
    scores, config, data = open_run(args.model, sigma=args.noise)
    p = next(evaluation.noisy_batches(data, scores.sigma, args.seed, batch_size=args.images))
    posterior = inference.posterior(scores, p.inputs)
    if args.components > math.prod(data.shape):
        raise UserError(f"--components: {args.components}; at most {math.prod(data.shape)} are expected")
    if args.walk is not None and args.walk >= len(p.inputs):
        raise UserError(f"--walk: {args.walk}; one of the {len(p.inputs)} images, from 0 on, is expected")
    walk = int(posterior.principal_components(1)[0].argmax()) if args.walk is None else args.walk
    title = f"{config.data.dataset}, σ = {scores.sigma:g}"
    refined = f"{title}, {args.refine} step{'s' if args.refine != 1 else ''} of refinement"
    pictures = {
        "components": evaluation.posterior_figure(posterior, data.shape, p.clean, args.components, title),
        "components_refined": evaluation.posterior_figure(
            posterior,
            data.shape,
            p.clean,
            args.components,
            refined,
            args.refine,
        ),
        "walks": evaluation.walk_figure(posterior, data.shape, walk, args.components, refine=args.refine),
    }
    print("written:", *(save_figure(args.results / f"{name}.png", figure) for name, figure in pictures.items()))


if __name__ == "__main__":
    run(main)
