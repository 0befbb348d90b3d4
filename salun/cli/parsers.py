"""The flags of all commands, declared with argparse alone, so that `--help` needs no library."""

from collections.abc import Callable

from salun.cli.flags import (
    Parser,
    add_data_flags,
    add_figure_flags,
    add_machine_flags,
    add_moved_flag,
    add_name_flag,
    add_order_flag,
    class_label,
    filled,
    points,
    positive,
)

UMAP_DEFAULTS = {"samples": 3000, "seed": 0, "neighbours": 15, "min_dist": 0.1, "no_pca": False}
_FIGURES = {
    "tsne": "t-SNE of features: plane, space, a rotation, and models side by side",
    "umap": "UMAP of features: plane, space, a rotation, and models side by side",
    "wasserstein": "1-Wasserstein distances between classes, their differences between models, and between models",
    "cka": "linear CKA of unlearned against base and retrained models, layer by layer",
    "confusion": "predictions and mean confidence per true class, before, after and retrained",
    "runs": "bars, curves, mask sweeps and the plane of forgetting against utility, from records",
    "comparator": "unlearned models as the JSON files that the Machine Unlearning Comparator's page reads",
}
_EXAMPLES = {
    "tsne": "salun-viz tsne features/resnet_tiny_digits_base.npz features/quickstart",
    "umap": "salun-viz umap features/resnet_tiny_digits_base.npz features/quickstart",
    "wasserstein": "salun-viz wasserstein features/resnet_tiny_digits_base.npz features/quickstart",
    "cka": "salun-viz cka checkpoints/quickstart",
    "confusion": "salun-viz confusion features/quickstart",
    "runs": "salun-viz runs quickstart random10",
    "comparator": "salun-viz comparator checkpoints/quickstart",
}
_MODEL_HELP = "resnet_tiny, a timm name, FILE.py:NAME (a class or function of your own file), or a plugin's"
_FEATURES_HELP = "features of salun-extract (default: features)"
_SLICED_HELP = (
    "approximate, for large S: the mean distance of the classes' shadows on 200 random lines (always the same), with "
    "its standard error; a lower bound of the exact distance, many times smaller in hundreds of dimensions, to be "
    "compared with other sliced distances only"
)


def train_parser() -> Parser:
    """Declare the flags of `salun-train`."""
    parser = Parser(
        "salun-train", description="Train a classifier on all of its training split, or without a forget set."
    )
    add = parser.add_argument
    add("--model", type=filled, help=f"{_MODEL_HELP} (default: resnet18; for digits resnet_tiny)")
    add(
        "--dataset",
        default="cifar10",
        help="digits, cifar10, cifar20, cifar100, svhn, mnist, fashion_mnist, tiny_imagenet, imagenette, each also as "
        "NAME:n=IMAGES for a stratified subset, celeba[:ATTRIBUTE], medmnist:NAME, "
        "folder:PATH[:labels=FILE][:size=PIXELS][:stream], "
        "synthetic[:n=..,size=..,classes=..,noise=..,seed=..], or a plugin's (default: cifar10)",
    )
    add(
        "--comment",
        type=filled,
        help="end of the checkpoint's name (default: base, or what is left out, and seeds other than 0)",
    )
    recipe = parser.add_argument_group("recipe (defaults: the SalUn paper's; for digits 10 epochs, cosine, batch 64)")
    recipe.add_argument("--lr", type=float, help="learning rate at the start (default: 0.1)")
    recipe.add_argument("--epochs", type=int, help="passes over the data (default: 182)")
    recipe.add_argument("--pat", type=int, metavar="N", help="stop after N epochs without a better validation accuracy")
    recipe.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: 256)")
    recipe.add_argument("--schedule", choices=("constant", "plateau", "multistep", "cosine"), help="default: multistep")
    recipe.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), help="default: sgd")
    recipe.add_argument("--momentum", type=float, help="default: 0.9")
    recipe.add_argument("--weight-decay", type=float, help="default: 0.0005")
    recipe.add_argument("--precision", choices=("auto", "float32", "bf16"), help="default: auto, bf16 on CUDA")
    recipe.add_argument("--seed", type=int, help="random seed of weights, image order and augmentation (default: 0)")
    recipe.add_argument("--pretrained", action="store_true", default=None, help="start from timm's weights")
    forget = parser.add_argument_group("what is left out of training").add_mutually_exclusive_group()
    forget.add_argument(
        "--cf", type=class_label, nargs="+", metavar="CLASS", help="all images of these classes, by number or name"
    )
    forget.add_argument("--unlr", type=float, metavar="SHARE", help="a random share of the training split")
    forget.add_argument("--itf", type=filled, metavar="FILE", help="the images listed in a forget-set file")
    add_order_flag(parser)
    add(
        "--stratified",
        action="store_true",
        help="with --unlr: that share of each class (default: as in the SalUn paper's code, whatever the class)",
    )
    add("--forget-seed", type=int, default=0, metavar="N", help="random seed that draws the share (default: 0)")
    add("--split-seed", type=int, default=0, metavar="N", help="random seed of the validation split (default: 0)")
    add("--out", default="checkpoints", metavar="DIR", help="folder of checkpoints (default: checkpoints)")
    add("--force", action="store_true", help="replace a checkpoint of another training: recipe, seed, data, forget set")
    add_machine_flags(parser)
    parser.add_examples(
        "salun-train --dataset digits",
        "salun-train --model resnet18 --dataset cifar10 --seed 1",
        "salun-train --dataset digits --cf 0        # the retrained model, which never saw class 0",
    )
    return parser


def import_parser() -> Parser:
    """Declare the flags of `salun-import`."""
    parser = Parser("salun-import", description="Make a checkpoint of weights that another program trained.")
    add = parser.add_argument
    add("file", metavar="FILE", help="a state_dict, a checkpoint of timm, Lightning or the official code, safetensors")
    add("--model", type=filled, required=True, help=f"{_MODEL_HELP} that the weights are of")
    add("--dataset", required=True, help="that it was trained on; see salun-train --help")
    add("--mean", type=float, nargs="+", metavar="X", help="of each channel in [0, 1] (default: the file's, or ours)")
    add("--std", type=float, nargs="+", metavar="X", help="of each channel (default: the file's, or ours)")
    add("--size", type=positive, metavar="PIXELS", help="side that its images had (default: the data set's)")
    add(
        "--classes", nargs="+", metavar="NAME", help="class names in the order of its outputs (default: the data set's)"
    )
    add("--ema", action="store_true", help="take the exponential moving average of the weights")
    add("--out", type=filled, required=True, metavar="FILE", help="the checkpoint, such as checkpoints/mine.pt")
    add("--force", action="store_true", help="replace a checkpoint that is there")
    add_data_flags(parser)
    parser.add_examples("salun-import weights.pth --model resnet18 --dataset cifar10 --out checkpoints/mine.pt")
    return parser


def report_parser() -> Parser:
    """Declare the flags of `salun-report`."""
    parser = Parser("salun-report", description="Make one self-contained HTML page of recorded runs.")
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="folders of results or files of records, here or under runs/ (all)")
    add("--out", type=filled, default="report.html", metavar="FILE", help="the page (default: report.html)")
    add("--deletion", action="store_true", help="a statement for non-specialists: what was deleted, and how well")
    add(
        "--embedding",
        choices=("tsne", "umap", "none"),
        default="tsne",
        help="of the features of models that are kept (default: tsne)",
    )
    add("--checkpoints", type=filled, default="checkpoints", metavar="DIR", help="default: checkpoints")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--data-dir", default="data", metavar="DIR", help="where data sets lie; nothing is fetched (default: data)")
    return parser


def data_parser() -> Parser:
    """Declare the flags of `salun-data`."""
    parser = Parser("salun-data", description="Show the parts and classes of a data set, and list its images.")
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="see salun-train --help")
    add("--manifest", type=filled, metavar="FILE", help="write index, path, class, split and SHA-256 of every image")
    add("--split-seed", type=int, default=0, metavar="N", help="random seed of the validation split (default: 0)")
    add_data_flags(parser)
    parser.add_examples("salun-data digits", "salun-data folder:pets --manifest pets.csv")
    return parser


def unlearn_parser() -> Parser:
    """Declare the flags of `salun-unlearn`."""
    parser = Parser("salun-unlearn", description="Unlearn, N times, and measure the distance to retraining.")
    add = parser.add_argument
    add("-L", "--load", metavar="FILE", help="JSON list of experiments, or the name of one of ours, such as quickstart")
    add("--nexp", type=int, default=5, metavar="N", help="runs of each experiment, each with its own seed (default: 5)")
    add("--metrics", nargs="+", metavar="NAME", help="metrics, or default, attacks, gone, all; of finished runs too")
    add("--dry-run", action="store_true", help="validate and print the experiments, train nothing")
    add("--out", default="runs", metavar="DIR", help="folder of records and tables (default: runs)")
    add("--checkpoints", default="checkpoints", metavar="DIR", help="folder of models (default: checkpoints)")
    add_name_flag(parser)
    add("--keep", choices=("all", "last", "none"), default="last", help="unlearned weights to keep (default: last)")
    _add_experiment_flags(parser)
    add = parser.add_argument_group("several base models, forget sets and limits").add_argument
    add("--nbase", type=int, default=1, metavar="N", help="base models, each with --nexp runs (default: 1)")
    add("--nforget", type=int, default=1, metavar="N", help="forget sets, each with --nexp runs (default: 1)")
    add(
        "--budget",
        type=int,
        metavar="PASSES",
        help="image passes, forward and backward, mask included, within which all but retrain stay",
    )
    _add_executor_flags(parser)
    add = parser.add_argument_group("tables").add_argument
    add(
        "--utility-floor",
        type=points,
        default=5.0,
        metavar="POINTS",
        help="mark runs that lose more points of RA or TA against the base model; 0 or none: mark none (default: 5)",
    )
    add("--published", action="store_true", help="show published figures beside ours")
    add("--wide", action="store_true", help="write summary_wide.csv too: one row an experiment, not one a metric")
    add = parser.add_argument_group("what there is").add_argument
    add("--list-methods", nargs="*", metavar="NAME", help="print all methods in short, or all that is known of some")
    add("--list-metrics", nargs="*", metavar="NAME", help="print all metrics in short, or all that is known of some")
    add("--schema", action="store_true", help="print the JSON Schema of experiment files")
    add_machine_flags(parser)
    parser.add_examples(
        "salun-unlearn -L quickstart --nexp 3",
        "salun-unlearn -L exp/random10.json --dry-run",
        "salun-unlearn -c checkpoints/resnet18_cifar10_base.pt -M rl_split -CF 3 -UM -MT 0.5",
        "salun-unlearn --list-methods rl_split",
    )
    return parser


def _add_experiment_flags(parser: Parser) -> None:
    """Add the flags that stand for the keys of one entry."""
    one = parser.add_argument_group("one experiment, without a list")
    one.add_argument("-c", "--checkpoint", metavar="FILE", help="the base model")
    one.add_argument("--model", help="with --dataset, in place of a checkpoint: trained on first need, and kept")
    one.add_argument("--dataset", help="see salun-train --help; with -c, where its folder: lies now")
    one.add_argument("-M", "--method", help="unlearning method (default: rl)")
    one.add_argument("-LR", "--lr", type=float, help="learning rate")
    one.add_argument("-E", "--epochs", type=int, help="number of epochs")
    one.add_argument(
        "-UM", "--use-mask", action="store_true", default=None, help="let only salient weights move (SalUn)"
    )
    one.add_argument("-MT", "--mask-thr", type=float, metavar="SHARE", help="weights that may move (default: 0.5)")
    one.add_argument("-LM", "--load-mask", metavar="FILE", help="use this mask")
    one.add_argument("--seed", type=int, help="random seed of the first run (default: 0)")
    one.add_argument(
        "--stratified",
        action="store_true",
        default=None,
        help="with -UL: that share of each class (default: as in the SalUn paper's code, whatever the class)",
    )
    one.add_argument("--forget-seed", type=int, metavar="N", help="random seed that draws the share (default: 0)")
    one.add_argument("--base-seed", type=int, metavar="N", help="random seed of the base model (default: its recipe's)")
    one.add_argument("--tag", help="name in tables and logs")
    forget = one.add_mutually_exclusive_group()
    forget.add_argument(
        "-CF",
        "--class-to-forget",
        type=class_label,
        nargs="+",
        metavar="CLASS",
        help="forget classes, by number or name",
    )
    forget.add_argument("-UL", "--unlearning-rate", type=float, metavar="SHARE", help="forget a random share")
    forget.add_argument("-IF", "--idxs-to-forget", metavar="FILE", help="forget the images of a forget-set file")
    add_order_flag(one, None)


def _add_executor_flags(parser: Parser) -> None:
    """Add the flags that say who does the runs."""
    add = parser.add_argument_group("several processes or machines").add_argument
    add(
        "--jobs",
        "--parallel",
        type=int,
        metavar="N",
        help="runs side by side, each in a process (default: 1; with --ray as many as find room)",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="runs on a Ray cluster: HOST:PORT, or local; alone, the one of this machine, started where there is none",
    )
    add(
        "--gpus-per-run",
        type=float,
        metavar="SHARE",
        help="with --ray: share of a GPU, 0 to 1 (default: 1 where the cluster has GPUs, else 0)",
    )


def tune_parser() -> Parser:
    """Declare the flags of `salun-tune`."""
    parser = Parser("salun-tune", description="Search the settings of every entry of a list on validation images.")
    add = parser.add_argument
    add("-L", "--load", required=True, metavar="FILE", help="JSON list; its keys may hold lists of values, or ranges")
    add("--trials", type=positive, default=20, metavar="N", help="settings tried of each entry (default: 20)")
    add("--budget", type=positive, metavar="PASSES", help="image passes of a run at most (default: retraining's)")
    add("--cells", type=positive, default=2, metavar="N", help="base models and forget sets of each trial (default: 2)")
    add("--finalists", type=positive, default=3, metavar="N", help="best settings that run again (default: 3)")
    add("--repeats", type=positive, default=3, metavar="N", help="runs of a finalist in each cell (default: 3)")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the search (default: 0)")
    add("--out", type=filled, metavar="FILE", help="the list with the chosen settings (default: beside the trials)")
    add("--runs", type=filled, default="runs", metavar="DIR", help="trials go to DIR/tune/ (default: runs)")
    add("--checkpoints", type=filled, default="checkpoints", metavar="DIR", help="default: checkpoints")
    _add_executor_flags(parser)
    add_name_flag(parser)
    add_machine_flags(parser)
    parser.add_examples("salun-tune -L quickstart --trials 20 --jobs 2")
    return parser


def audit_parser() -> Parser:
    """Declare the flags of `salun-audit`."""
    parser = Parser("salun-audit", description="Attack methods with many shadow models: U-LiRA and KLoM.")
    add = parser.add_argument
    add("-L", "--load", required=True, metavar="FILE", help="JSON list of experiments, or the name of one of ours")
    add("--shadows", type=positive, default=64, metavar="N", help="models, an even number from 6 (default: 64)")
    add("--runs", type=filled, default="runs", metavar="DIR", help="where results go (default: runs)")
    add(
        "--checkpoints",
        type=filled,
        default="checkpoints",
        metavar="DIR",
        help="where shadow models go (default: checkpoints)",
    )
    add_name_flag(parser)
    add_figure_flags(parser)
    add_data_flags(parser)
    parser.add_examples("salun-audit -L audit --shadows 32")
    return parser


def extract_parser() -> Parser:
    """Declare the flags of `salun-extract`."""
    description = "Extract the features of the same images from every checkpoint of a folder."
    parser = Parser("salun-extract", description=description)
    add = parser.add_argument
    add(
        "-D",
        "--directory",
        type=filled,
        default="checkpoints",
        metavar="DIR",
        help="folder of checkpoints, looked for as given, then under checkpoints/; or one file (default: checkpoints)",
    )
    add(
        "-S",
        "--samples",
        type=positive,
        default=5000,
        metavar="N",
        help="the first N images of the set (default: 5000)",
    )
    add(
        "--split",
        choices=("train", "test", "forget", "retain"),
        default="train",
        help="the set; forget and retain are those of the checkpoints found, together (default: train)",
    )
    add("--itf", type=filled, metavar="FILE", help="forget-set file, where no checkpoint records one")
    add_order_flag(parser)
    add("--layer", type=filled, default="pre-head", help="what is read: a module's name (default: the head's input)")
    add(
        "--format",
        choices=("npz", "json"),
        default="npz",
        help="npz, or the JSON of the SalUn DeepDive project (default: npz)",
    )
    add("--out", type=filled, default="features", metavar="DIR", help="folder of features (default: features)")
    add("-B", "--batch-size", type=positive, default=256, metavar="N", help="images at once (default: 256)")
    add("-W", "--num-workers", type=int, metavar="N", help="accepted and not needed: images are on the device")
    add_data_flags(parser)
    add_moved_flag(parser)
    parser.add_examples("salun-extract -D checkpoints -S 1000", "salun-extract -D quickstart --split test")
    return parser


def viz_parser() -> Parser:
    """Declare the flags of `salun-viz` and of its commands."""
    parser = Parser("salun-viz", description="Draw figures of features, models and runs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    declarations: dict[str, Callable[[Parser], None]] = {
        "tsne": _add_tsne_flags,
        "umap": _add_umap_flags,
        "wasserstein": _add_wasserstein_flags,
        "cka": _add_cka_flags,
        "confusion": lambda parser: _add_paths(parser, _FEATURES_HELP),
        "runs": lambda parser: _add_paths(
            parser,
            "records, looked for as given, then under runs/; several are drawn each by itself, and compared where they "
            "are of the same base model and forget set (default: all under runs/, each by itself)",
        ),
        "comparator": _add_comparator_flags,
    }
    for name, declare in declarations.items():
        command = commands.add_parser(name, help=_FIGURES[name], description=_FIGURES[name])
        declare(command)
        if name != "comparator":
            add_figure_flags(command)
        command.add_examples(_EXAMPLES[name])
    parser.add_examples(*_EXAMPLES.values())
    return parser


def _add_paths(parser: Parser, meaning: str) -> None:
    """Add the paths that a figure is made of."""
    parser.add_argument("paths", nargs="*", metavar="FOLDER|FILE", help=meaning)


def _add_samples_flag(parser: Parser, default: int, meaning: str) -> None:
    """Add the flag that limits the samples."""
    parser.add_argument("-S", "--samples", type=positive, default=default, metavar="N", help=meaning)


def _add_embedding_flags(parser: Parser) -> None:
    """Add the flags that t-SNE and UMAP share."""
    _add_paths(
        parser, "features; several together are embedded in one space (default: each file under features/ by itself)"
    )
    _add_samples_flag(parser, 3000, "first N of each file (default: 3000)")
    add = parser.add_argument
    add("--no-pca", action="store_true", help="do not reduce features to 50 dimensions first")
    add("--seed", type=int, default=0, metavar="N", help="of all randomness (default: 0)")
    add("--mp4", action="store_true", help="write the rotation as an MP4 too; needs ffmpeg")


def _add_tsne_flags(parser: Parser) -> None:
    """Add the flags of t-SNE."""
    _add_embedding_flags(parser)
    parser.add_argument("--perplexity", type=float, default=30.0, help="effective number of neighbours (default: 30)")


def _add_umap_flags(parser: Parser) -> None:
    """Add the flags of UMAP."""
    _add_embedding_flags(parser)
    add = parser.add_argument
    add("--neighbours", type=positive, default=15, metavar="N", help="size of a neighbourhood (default: 15)")
    add("--min-dist", type=float, default=0.1, metavar="X", help="how close points may lie, 0 to 1 (default: 0.1)")
    add(
        "--notebook",
        action="store_true",
        help="the SalUn notebook's figure: of all samples of a file 2,000, equally many of each class; features as "
        "they are, 9 neighbours, distance 0.45, seed 2048",
    )


def _add_wasserstein_flags(parser: Parser) -> None:
    """Add the flags of Wasserstein distances."""
    _add_paths(parser, _FEATURES_HELP)
    _add_samples_flag(parser, 1000, "the first N of each file (default: 1000)")
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="compare every two models (default: each unlearned model with base and retrained models, and those two)",
    )
    parser.add_argument("--sliced", action="store_true", help=_SLICED_HELP)


def _add_model_flags(parser: Parser) -> None:
    """Add the flags that name checkpoints, a device and a folder of data."""
    _add_paths(parser, "checkpoints, looked for as given, then under checkpoints/ (default: checkpoints)")
    parser.add_argument("--base", type=filled, metavar="FILE", help="the base model (default: found)")
    parser.add_argument("--retrained", type=filled, metavar="FILE", help="the retrained model (default: found)")
    add_data_flags(parser)
    add_moved_flag(parser)


def _add_cka_flags(parser: Parser) -> None:
    """Add the flags of layer comparison."""
    _add_model_flags(parser)
    _add_samples_flag(parser, 1000, "the first N images of each set (1000)")
    add = parser.add_argument
    add("-B", "--batch-size", type=positive, default=256, metavar="N", help="images at once (256)")
    add("--layers", nargs="+", metavar="NAME", help="modules (default: stem, blocks and head)")
    add("--all-layers", action="store_true", help="every layer with every layer, not just its own kind")


def _add_comparator_flags(parser: Parser) -> None:
    """Add the flags of files for the Comparator's page."""
    _add_model_flags(parser)
    add = parser.add_argument
    add(
        "--definition",
        choices=("notebook", "comparator"),
        default="notebook",
        help="whose scores: the notebook's, of one model, with ln(number of classes) for its ln 10; or the "
        "Comparator's, against a retrained model (default: notebook)",
    )
    add(
        "--runs",
        type=filled,
        default="runs",
        metavar="DIR",
        help="where records lie, for the time taken (default: runs)",
    )
    add(
        "--out",
        type=filled,
        default="images",
        metavar="DIR",
        help="files go to DIR/comparator/CLASS/ID.json, or ID_comparator.json by the Comparator's definition (images)",
    )
