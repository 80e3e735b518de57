"""Options of the commands. Their docstrings are what `--help` prints.

Nothing here imports torch, so that help stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lit_cascade.options import (
    Combination,
    PolicyOptions,
    RayOptions,
    ScoreName,
    ServingOptions,
    Share,
)

RecordDtype = Literal["float16", "float32"]


@dataclass(kw_only=True)
class OutputOptions:
    """Options of every command that writes files.

    Args:
        out: folder for the results; by default a new one, runs/COMMAND-N.
        overwrite: replace results that are already in the folder.
        wide: show all columns of all tables, however wide the terminal is.
        quiet: print errors only; the files are written as always.
        json: print the summary as one JSON document instead of tables and sentences.
    """

    out: str | None = None
    overwrite: bool = False
    wide: bool = False
    quiet: bool = False
    json: bool = False


@dataclass(kw_only=True)
class ReportedOptions(OutputOptions):
    """Options of every command whose results `report` shows.

    Args:
        report: also write report.html, a page that can be sent, as lit-cascade report does.
    """

    report: bool = False


@dataclass
class FitOptions(OutputOptions):
    """Train one stage, from scratch or from other weights, and evaluate it.

    Args:
        patience: stop when the metric on stop_on has not improved for this many validations, and
            keep the weights of the best one; by default training goes on to its end and the last
            weights are kept. There is one validation per epoch unless the Trainer is told
            otherwise.
        stop_on: the split for patience; the metric is its official one, else accuracy.
        out: folder for the checkpoint and its card; by default a new one, runs/fit-N. To resume an
            interrupted run, give its folder.
    """

    patience: int | None = None
    stop_on: str = "development"


@dataclass
class ScreenOptions(OutputOptions):
    """List published models worth recording: on the front of accuracy against cost, or near it.

    A model is kept if its published accuracy is at least that of the best model that costs no more,
    less a margin: one that is a little worse alone may be the better partner in a cascade.

    Args:
        results: CSV tables of accuracies, such as timm's results-imagenet.csv: columns model,
            accuracy or top1, and img_size.
        benchmark: CSV tables of costs, such as timm's benchmark-infer-*.csv: columns model,
            infer_img_size, and infer_gmacs or flops, joined to the results by model and image size.
            If several tables list a model, the first one counts. Not needed if the results have
            costs.
        accuracy: range of published accuracies to keep, such as 0.80:0.90 or 80%:90%, or 0.80: for
            no upper end.
        max_cost: the highest cost of a model per sample, in the unit of cost.
        margin: how far below the front a model may be, as a share of answers: one point is 0.01 or
            1%, 0 keeps the front alone.
        models: patterns of models to consider, such as resnet* or *.fb_in22k_*, which match whole
            names or the part before the dot; by default all.
        exclude: patterns of models to leave out.
        at_most: how many models to keep: first the front, then those nearest to it. If the front
            alone has more, its ends and the models between that it would miss most.
        all_sizes: also consider models at smaller image sizes than their largest one, at which
            record runs them.
        cost: unit of the cost to screen by: flops, or latency_s, which is 1 / infer_samples_per_sec
            of the benchmark.
    """

    results: list[str] | None = None
    benchmark: list[str] | None = None
    accuracy: str | None = None
    max_cost: float | None = None
    margin: Share = Share(0.01)
    models: list[str] | None = None
    exclude: list[str] | None = None
    at_most: int | None = None
    all_sizes: bool = False
    cost: str = "flops"


@dataclass
class FlopsOptions(OutputOptions):
    """Count FLOPs and parameters of published architectures, without their weights.

    Names are those of timm or torchvision, or wildcards in quotation marks. A name without a
    library is timm's, or torchvision's if timm has none that fits; torchvision:NAME is
    torchvision's. The table flops.csv is what import --flops and search --cost flops=FILE take.

    Args:
        names: what to count; the words that belong to no other option.
        img_size: height and width of the images; by default of each architecture those of timm's
            published results, at which record runs it, or of torchvision's default weights.
        out: folder for flops.csv; by default a new one, runs/flops-N.
    """

    names: list[str] | None = None
    img_size: int | None = None


@dataclass
class RecordOptions(OutputOptions):
    """Run every model of a config on a split and write a record of each.

    Models run one after the other, and each record is written as soon as its model is done. The
    same command again keeps the finished records and continues with the others.

    Args:
        split: the split to run on: validation, calibration, or another that the data has.
        only: names of the models to record; by default all of the config.
        dtype: of the logits: float16, or float32 to keep every digit.
        out: folder for the records NAME.safetensors, which may hold some of them already; by
            default a new one, runs/record-N.
        overwrite: replace files in the folder that are not records of these models on these data.
    """

    split: str = "validation"
    only: list[str] | None = None
    dtype: RecordDtype = "float16"


@dataclass
class ImportOptions(OutputOptions):
    """Make records from arrays of any framework.

    FILE is .npy, .npz, .csv, .parquet or .safetensors; if it holds several arrays or columns,
    FILE:NAME or FILE:NAME,NAME picks some. One value per sample may also be .txt, one per line.

    The predictions of many models in one table become one record each with --table: predictions,
    score, labels and ids are then names of its columns, in which {} stands for the name of a model.

    Args:
        name: name of the model, and of the file.
        logits: FILE of shape (samples, classes).
        probabilities: instead of logits, FILE of class probabilities, whose logarithm is kept;
            those of 8 bits (uint8) are in steps of 1/256.
        predictions: instead of logits, FILE of the classes that the model answers: whole numbers
            from 0, or names that are among the classes. In a table by default {}.
        score: with predictions, FILE of how sure the model is of each answer, larger is surer; or
            instead of them, with correct.
        correct: with score alone, FILE of whether each answer is right: 0 or 1, true or false. Or,
            with labels and nothing else, 1 for a stage that is always right, such as a person.
        table: FILE .csv or .parquet with the predictions of many models.
        models: names or patterns, such as resnet*, of models of the table; by default all, which
            are the other columns of whole numbers if predictions is {}.
        exclude: patterns of models of the table to leave out.
        labels: FILE of the true classes: whole numbers from 0, or names that are among the classes;
            or a column of lists where several are right, whose empty lists leave a sample out.
            Without labels a record will do for check and for select --max_disagreement.
        flops: FLOPs per sample, one multiply-add being 2: a number, or FILE. For a table, FILE is
            a .csv with the columns model and flops, as lit-cascade flops writes it.
        cost: NAME=NUMBER or NAME=FILE, a cost per sample in another unit; may be repeated. For a
            table, FILE has a row per model, such as prices.csv or prices.csv:COLUMN.
        ids: FILE of distinct numbers or names of the samples; by default their positions.
        classes: FILE of class names in logit order, the name of a list such as imagenet-1k, or the
            number of classes; by default the names of the logits' columns if they have any, else 0,
            1, ...
        model_classes: MODEL=FILE, names of the classes as a model with predictions numbers them, if
            that is not the order of classes; MODEL may be a pattern. May be repeated.
        parameters: number of parameters of the model.
        data: name of the data; of a .csv of costs with a column dataset it picks the rows.
        split: split of the data.
        source: where the ids come from, so that overlaps between splits are found.
        dtype: of the logits; float16 arrays stay float16.
    """

    name: str | None = None
    logits: str | None = None
    probabilities: str | None = None
    predictions: str | None = None
    score: str | None = None
    correct: str | None = None
    table: str | None = None
    models: list[str] | None = None
    exclude: list[str] | None = None
    labels: str | None = None
    flops: str | None = None
    cost: list[str] | None = None
    ids: str | None = None
    classes: str | None = None
    model_classes: list[str] | None = None
    parameters: int = 0
    data: str | None = None
    split: str | None = None
    source: str | None = None
    dtype: RecordDtype = "float32"


@dataclass
class CalibrateOptions(OutputOptions):
    """Fit temperatures on the calibration split, and test whether they help.

    Args:
        records: record files to fit on instead of running models, cheapest first.
        stages: names of the stages to calibrate; by default all but the last.
        method: temperature, one number per stage; or none, to report the calibration as it is.
        share: share of the samples to fit on; the others are reported on, and select may choose
            thresholds on them. By default all samples are fitted on, and the reported figures are
            cross-fitted.
        seed: seed for drawing the samples.
        learn_score: also fit a learned score, which estimates what is gained by going on, from the
            confidence, the predicted class, and what earlier stages say; also to predictions.
        choose_norms: also choose the norms of the score max_logit_pnorm, or max_softmax for a stage
            where none is better at telling its right answers from its wrong ones.
        split: the split to fit on.
        cost: unit of the cost to compare cascades by: flops, or another that the records have.
        allow_overlap: fit even on samples that the validation split has too.
        policy: policy of the cascade; the result has none of its thresholds and floors.
    """

    records: list[str] | None = None
    stages: list[str] | None = None
    method: Literal["temperature", "none"] = "temperature"
    share: Share | None = None
    seed: int = 0
    learn_score: bool = False
    choose_norms: bool = False
    split: str = "calibration"
    cost: str = "flops"
    allow_overlap: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class CompareScoresOptions(ReportedOptions):
    """Compare the confidence scores of a small model for deferring to a large one.

    For each score: the area between random (0) and oracle deferral (1), AURC, and the cost at the
    large model's accuracy. The learned score and the thresholds are fitted on other samples than
    those that are reported on.

    Args:
        records: record files of the small model and of the large one; those before them are of
            models whose answers the score agreement compares with the small one's.
        fit_on: record files of the same two models on other samples, to fit on; by default a part
            of the samples of records is fitted on, and the rest is reported on.
        share: share of the samples in that part; 0 for no learned score and no thresholds.
        seed: seed for drawing that part, and for the intervals.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        allow_overlap: report even on samples that are fitted on.
    """

    records: list[str] | None = None
    fit_on: list[str] | None = None
    share: Share = Share(0.5)
    seed: int = 0
    cost: str = "flops"
    allow_overlap: bool = False


@dataclass
class ValidateOptions(ReportedOptions):
    """Evaluate a cascade at every threshold: accuracy, deferral rate and FLOPs.

    Args:
        records: record files to evaluate instead of running models, cheapest first.
        split: the split to evaluate on: validation, calibration, or another that the data has.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        calls_per_month: number of calls in a month, such as 2e6, for the saving of a month.
        metric: metric to report beside accuracy: f1 (of the second of two classes), f1_macro or
            matthews; by default the official metric of the data. accuracy reports no other.
        allow_overlap: evaluate even on samples that the temperatures were fitted on.
        save_records: also write one record per stage into the folder.
        save_samples: with models, also write samples.json: the texts, or thumbnails of the images,
            of so many samples on which the first and the last model disagree, for
            report --disagreements.
        policy: score and temperatures of the cascade, and thresholds to report on.
    """

    records: list[str] | None = None
    split: str = "validation"
    cost: str = "flops"
    calls_per_month: float | None = None
    metric: str | None = None
    allow_overlap: bool = False
    save_records: bool = False
    save_samples: int = 0
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class SelectOptions(ReportedOptions):
    """Choose thresholds that keep a promise, with evidence, on the calibration split.

    Give one of the six targets. Of the policies that keep it the cheapest is chosen; if the target
    limits the cost or the deferral rate, the most accurate.

    Args:
        records: record files to choose on instead of running models, cheapest first.
        max_accuracy_drop: accuracy is at most this share below the last stage's: half a point is
            0.005 or 0.5%.
        min_accuracy: accuracy is at least this.
        max_disagreement: at most this share of answers differ from the last stage's; needs no
            labels.
        deferral_rate: at most this share of samples is deferred by the first stage.
        max_cost: the mean cost per sample is at most this, in the unit of cost.
        max_cost_ratio: the mean cost per sample is at most this share of the last stage's.
        confidence: probability that the target holds on new samples, over the draw of these; none
            for the plain empirical choice, which keeps the target on these samples only.
        holdout: share of the samples to hold out: thresholds are chosen on the others, and the
            policy is reported on these.
        split: the split to choose on.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        calls_per_month: number of calls in a month, such as 2e6, for the saving of a month.
        seed: seed for drawing samples that put several thresholds in order, and those held out.
        allow_overlap: choose even on samples that the validation split has too, or that the
            temperatures were fitted on.
        policy: score and temperatures of the cascade; thresholds in it are replaced.
    """

    records: list[str] | None = None
    max_accuracy_drop: Share | None = None
    min_accuracy: Share | None = None
    max_disagreement: Share | None = None
    deferral_rate: Share | None = None
    max_cost: float | None = None
    max_cost_ratio: Share | None = None
    confidence: Share | Literal["none"] = Share(0.95)
    holdout: Share = Share(0.0)
    split: str = "calibration"
    cost: str = "flops"
    calls_per_month: float | None = None
    seed: int = 0
    allow_overlap: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class CheckOptions(ReportedOptions):
    """Test the promise of a policy on new data: exit code 1 if it is broken, or the data drifted.

    The data are records, or answers of a cascade that runs. Answers may be tested again and again:
    all tests together raise a false alarm with probability 1 - confidence at most, for ever.

    Args:
        policy: policy whose promise is tested: the policy.yaml that select wrote.
        records: record files of the policy's stages on other samples, cheapest first.
        metrics: address of the metrics of a cascade that lit-cascade serve runs, such as
            http://localhost:8000/metrics, or a file with them; of several servers, whose answers
            are tested together, all in the same order each time.
        follow: file of answers, one JSON object per line with stage and score, and prediction with
            label or audit, the last stage's answer, where they are known; - for stdin.
        state: file in which the tests are kept, so that the same command goes on where it ended;
            made if it does not exist.
        every: number of answers to follow after which the tests are looked at.
        wait: seconds to wait for more answers at the end of the file; inf never ends.
        confidence: confidence of the verdict; by default that of the promise.
        cost: the unit of cost that the policy was chosen by, which is the default; or
            latency_s=FILE with the stages' costs, as for select.
        calls_per_month: number of calls in a month, such as 2e6, for the saving of a month.
        out: folder for check.json; by default a new one, runs/check-N, for records, and none for
            answers.
    """

    records: list[str] | None = None
    metrics: list[str] | None = None
    follow: str | None = None
    state: str | None = None
    every: int = 1000
    wait: float = 0.0
    confidence: Share | None = None
    cost: str | None = None
    calls_per_month: float | None = None
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class SearchOptions(ReportedOptions):
    """Search the records of many models for cascades: the front of accuracy against cost.

    If there are records of a split `calibration` and of one other, models, thresholds and
    temperatures are chosen on the former and reported on the latter.

    Args:
        records: record files, or folders that are searched for them with their subfolders.
        split: the split to report on; needed if there are several besides calibration.
        choose_on: the split to choose on; by default calibration, or the one that is reported on.
        stages: the largest number of stages of a cascade, 2 to 4.
        cost: unit of the cost to search by: flops, or another that the records have; or
            latency_s=FILE,... with the benchmark.json of one or more benchmarks.
        score: confidence score, as for validate; records without logits keep their own. With
            agreement, 3 or 4 stages are searched: the first votes, or answers where it is sure.
        combine: which answer counts after a deferral, as for validate.
        calibrate: fit a temperature per model, on the samples that are chosen on.
        window: also try floors below which a stage answers, with 2 stages.
        bands: ranges of accuracy for the average compute reduction, such as 0.80:0.86, or 0.86: up
            to the most accurate single model; by default the top half and the top quarter of the
            single models' front.
        baseline: CSV tables of published models to draw beside: columns model, accuracy or top1,
            and flops or gmacs; timm's results and benchmark tables join by model.
        levels: number of thresholds per pair; by default all in a small zoo, 1,000 in a large one.
        candidates: number of models that cascades of 3 or 4 are made of: those nearest to the front
            in pairs. Those of 4 are made of at most 16, except where there are predictions alone.
        holdout: share of the samples to report on if there is one split; 0 holds out none.
        repeats: how often the held-out samples are drawn.
        seed: seed for drawing them.
        calls_per_month: number of calls in a month, such as 2e6, for the saving of a month.
        compare: also compare scores, combinations, calibration, window, 3 stages and agreement.
        allow_overlap: report even on samples that are chosen on.
    """

    records: list[str] | None = None
    split: str | None = None
    choose_on: str | None = None
    stages: int = 2
    cost: str = "flops"
    score: ScoreName = "max_softmax"
    combine: Combination = "later"
    calibrate: bool = False
    window: bool = False
    bands: list[str] | None = None
    baseline: list[str] | None = None
    levels: int | None = None
    candidates: int = 96
    holdout: Share = Share(0.5)
    repeats: int = 20
    seed: int = 0
    calls_per_month: float | None = None
    compare: bool = False
    allow_overlap: bool = False


@dataclass
class TestOptions(ReportedOptions):
    """Execute a cascade at given thresholds: each stage sees only what earlier ones deferred.

    Args:
        split: the split to run on: validation, or another that the data has.
        metric: metric to report beside accuracy, as for validate.
        gather: number of batches whose deferred samples are gathered into full batches for the next
            stage; more keep a GPU busier, fewer take less memory.
        allow_overlap: report even on samples that the temperatures were fitted on.
        policy: score, temperatures and thresholds of the cascade.
    """

    __test__ = False  # keeps pytest from collecting the class

    split: str = "validation"
    metric: str | None = None
    gather: int = 8
    allow_overlap: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class PredictOptions(OutputOptions):
    """Classify inputs, or every sample of a split, with a cascade and write the answers.

    Inputs stand after the options: folders of images or image files; files with one text per line,
    a table of texts, or - for lines from standard input. They replace the data of the config, which
    say what they are. Without inputs the config's data are classified.

    One row per sample, in the order of the data: id, class, probability, stage, score, and the
    error if the sample could not be read. Answers are written while the cascade runs; the same
    command again resumes an interrupted run and writes the same file.

    Args:
        inputs: what to classify; the words that belong to no other option.
        split: the split to classify; by default predict if the data has it, else validation. Labels
            are not read.
        top: number of likeliest classes; those after the first are in the columns class_2,
            probability_2, and so on.
        text: also write the text of each sample.
        format: parquet or csv.
        gather: number of batches whose deferred samples are gathered into full batches for the next
            stage, and whose answers are written together.
        engine: lightning runs all stages in each of the processes that the Trainer is given; ray
            runs each stage in a pool of actors of its own on a Ray cluster, where stages want
            different machines or different numbers of them.
        ray: cluster and actors of the engine ray.
        out: folder for predictions.parquet or predictions.csv and predict.json; by default a new
            one, runs/predict-N. To resume an interrupted run, give its folder.
        policy: score, temperatures and thresholds of the cascade.
    """

    inputs: list[str] | None = None
    split: str | None = None
    top: int = 1
    text: bool = False
    format: Literal["parquet", "csv"] = "parquet"
    gather: int = 8
    engine: Literal["lightning", "ray"] = "lightning"
    ray: RayOptions = field(default_factory=RayOptions)
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class BenchmarkOptions(ReportedOptions):
    """Measure the speed of a cascade, next to its stages alone and to the ideal.

    Batch size, precision, device, compilation and memory layout are those of the config:
    --data.init_args.batch_size, --trainer.precision, --trainer.accelerator, --model.compiled,
    --model.channels_last. The thresholds are those of at, else those of the policy, else the ones
    that defer the shares in deferral_rates.

    Args:
        at: thresholds to run at, each shared by all deferring stages; instead of the policy's.
        deferral_rates: without thresholds, shares of its samples that each stage is to defer.
        split: the split to run on.
        samples: the largest number of samples to run on; they are kept in memory.
        singles: number of samples that are also run one at a time, for the latency.
        repeats: how often everything is timed, side by side.
        gather: number of batches whose deferred samples are gathered, as for test.
        end_to_end: also time everything with loading and preprocessing.
        threads: number of CPU threads for the models; by default PyTorch's.
        policy: score, temperatures and thresholds of the cascade.
    """

    at: list[float] | None = None
    deferral_rates: list[Share] = field(
        default_factory=lambda: [Share(rate) for rate in (0.05, 0.1, 0.2, 0.4, 0.8)]
    )
    split: str = "validation"
    samples: int = 2048
    singles: int = 64
    repeats: int = 5
    gather: int = 8
    end_to_end: bool = True
    threads: int | None = None
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class ReportOptions:
    """Put results on one page, report.html, that can be sent: a single file.

    The page says what threshold is proposed, what it saves and how sure that is, and has a slider
    over all thresholds. It shows what the files hold and computes nothing anew.

    Args:
        folders: folders with results of validate, select, search, compare-scores, check, test or
            benchmark; the words that belong to no other option.
        disagreements: number of samples to list on which the first and the last model of validate
            disagree, with labels and answers, from the records that --save_records kept, and with
            texts or thumbnails, if --save_samples kept them.
        out: folder for report.html; by default the first of the folders.
        overwrite: replace a report.html that is already in the folder.
        quiet: print errors only.
    """

    wide = json = False  # no options, as no result is printed
    folders: list[str] | None = None
    disagreements: int = 0
    out: str | None = None
    overwrite: bool = False
    quiet: bool = False


@dataclass
class ServeOptions(ServingOptions):
    """Serve a cascade over HTTP: each stage with a queue, batches and workers of its own.

    POST /predict answers one input: an image as the body or in base64, a text, or numbers, as the
    config's data have them; /docs is a page that shows how. The thresholds are those of the policy.

    With --to ray nothing is served: serve.yaml is written, which `serve run` and `serve deploy` of
    Ray Serve take, with a deployment for each stage, on many machines.

    Args:
        to: ray writes serve.yaml for Ray Serve; by default the cascade is served here.
        out: folder for serve.yaml; by default a new one, runs/serve-N.
        overwrite: replace a serve.yaml that is already in the folder.
        benchmark: the benchmark.json of these stages: replicas are in the ratio of the time that
            each stage needs at the policy's deferral rate.
        rate: requests per second to have replicas for; by default what one of the stage with the
            least work serves.
        cost: a further cost of each stage for /metrics, beside FLOPs and seconds: UNIT=FILE with
            the stages' costs, as for select.
        ray: replicas of each stage (actors), and CPUs and GPUs of each.
        quiet: print errors only.
        policy: score, temperatures and thresholds of the cascade.
    """

    wide = json = False  # no options, as no result is printed
    to: Literal["ray"] | None = None
    out: str | None = None
    overwrite: bool = False
    benchmark: str | None = None
    rate: float | None = None
    cost: str | None = None
    ray: RayOptions = field(default_factory=RayOptions)
    quiet: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class ExportOptions(OutputOptions):
    """Write a cascade as files that run without torch, and prove that they decide the same.

    stage-0.onnx, stage-1.onnx, ... are the stages, policy.json says how they work together, and
    run_cascade.py runs them with numpy and onnxruntime alone. With --to torch the stages are
    programs of torch.export, stage-0.pt2, ..., which need torch and nothing else.

    Args:
        to: format of the stages: onnx or torch; or web, which is onnx with a page that runs the
            cascade in a browser.
        onnxruntime_web: with --to web, the folder dist of the npm package onnxruntime-web, of which
            the page gets what it needs; without it the page says how to get it.
        one_file: also write the whole cascade as cascade.onnx, for any number of samples.
        embed_preprocessing: also write preprocess-0.onnx, ..., which resize and crop images exactly
            as Pillow does; for a centre crop of bilinear or bicubic.
        aot_inductor: with --to torch, compile the stages for this machine's CPU by AOTInductor.
        verify: number of samples on which files and cascade must decide the same: one by one, seven
            at a time and all at once; with the policy's thresholds and with others that defer some,
            none and all. 0 verifies nothing.
        split: the split that these samples are from.
        out: folder for the files; by default a new one, runs/export-N.
        policy: score, temperatures and thresholds of the cascade.
    """

    to: Literal["onnx", "torch", "web"] = "onnx"
    onnxruntime_web: str | None = None
    one_file: bool = False
    embed_preprocessing: bool = False
    aot_inductor: bool = False
    verify: int = 256
    split: str = "validation"
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class CardOptions(OutputOptions):
    """Write a cascade to share into a folder: its model card, weights and policy.

    README.md is a model card as the Hugging Face hub reads it, with the curve at every threshold,
    evaluated on one split. cascade.yaml and the weights beside it are what load_cascade("FOLDER")
    takes, and lit-cascade push uploads; no code is part of them. The policy needs thresholds.

    Args:
        records: record files to evaluate instead of running models, cheapest first; then only the
            card is written, for a folder of something else, such as an export.
        name: name of the cascade in the card; OWNER/NAME, if that is where it is pushed to.
        license: identifier of the license on the hub, such as apache-2.0.
        split: the split to evaluate on.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        metric: metric to report beside accuracy, as for validate.
        allow_overlap: evaluate even on samples that the policy was fitted on.
        policy: score, temperatures and thresholds of the cascade.
    """

    records: list[str] | None = None
    name: str | None = None
    license: str = ""
    split: str = "validation"
    cost: str = "flops"
    metric: str | None = None
    allow_overlap: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class PushOptions:
    """Upload a folder of card or export to the Hugging Face hub, as one commit.

    Others load it by load_cascade("OWNER/NAME"). The hub knows you by `hf auth login`, or by the
    environment variable HF_TOKEN. Hidden files are left out.

    Args:
        names: NAME on the hub, OWNER/NAME or NAME alone; the word that belongs to no other option.
        folder: what to upload: a folder with cascade.yaml or policy.json.
        private: make a repository that only its owners see.
        revision: branch to upload to, made if there is none; by default main.
        message: message of the commit.
        overwrite: upload to a repository that exists already; its history keeps older files.
        quiet: print errors only.
    """

    wide = json = False  # no options, as no result is printed
    names: list[str] | None = None
    folder: str | None = None
    private: bool = False
    revision: str | None = None
    message: str = "Upload by lit-cascade"
    overwrite: bool = False
    quiet: bool = False
