"""Which commands there are: the options of each, and how it introduces itself."""

from . import circuit, exchange, explaining, explore, feature, ioi, options, rating, steering
from .parse import Command

COMMANDS = (
    Command(
        "demo",
        "the whole thing on the model that ships with the package: a few minutes, no network",
        "Run the study of the shipped recipe: harvest activations of builtin:tiny, train sparse autoencoders,\n"
        "fit baselines, measure all of them on held-out text, and write report.html.",
        options.DemoOptions,
        "commands:run_the_demo",
        example="sparsescope demo --resume",
    ),
    Command(
        "study",
        "all stages from one recipe, into one directory with a report",
        "Run harvest, train, fit, evaluate and report from one recipe. Flags replace the keys at its top.\n"
        "With --activations (and --dictionaries) the study is made of pieces made before.",
        options.StudyOptions,
        "commands:run_the_study",
        own_config=True,
        example="sparsescope study --model ./my-model --text book.txt --tokens 100000 --out runs/mine",
    ),
    Command(
        "harvest",
        "write a model's activations on a text to disk",
        "Run a model over a text and keep its activations, split by document into train, validation and test.",
        options.HarvestOptions,
        "commands:run_the_harvest",
        example="sparsescope harvest --model builtin:tiny --text builtin:docs --site resid_post.2 \\\n"
        "                          --tokens 500000 --out acts",
    ),
    Command(
        "train",
        "make dictionaries: sparse autoencoders and baselines",
        "Train sparse autoencoders on one pass over the activations, and fit baselines. Options that repeat\n"
        "multiply: every sparsity at every size is one dictionary. A baseline comes in full and, for every\n"
        "--k, in top-k form.",
        options.TrainOptions,
        "commands:run_the_training",
        example="sparsescope train --activations acts --method tied_l1 --target-l0 16 --target-l0 32 \\\n"
        "                        --ratio 4 --tokens 2000000 --out saes",
    ),
    Command(
        "evaluate",
        "measure dictionaries on held-out text",
        "Measure dictionaries: FVU, L0, and the loss of the model when it reads their reconstruction, each\n"
        "with a 95% interval over documents.",
        options.EvaluateOptions,
        "commands:run_the_evaluation",
        example="sparsescope evaluate saes --activations acts --json",
    ),
    Command(
        "explain",
        "say what latents respond to, and how far that can be believed",
        "Explain latents of every dictionary of a run on one part of its text, predict their activations on\n"
        "another from the explanations alone, and score the predictions; the same for controls which ought\n"
        "to fail. By rules, without a model or a network, unless a server or a model is named.",
        explaining.ExplainOptions,
        "explaining:run_the_explaining",
        example="sparsescope explain runs/demo",
    ),
    Command(
        "ioi",
        "show that features cause behaviour: patch them, and put them to the test",
        "Patch the latents of every dictionary of a run, one by one in order of importance, from prompts of\n"
        "indirect object identification into others with another name; the same with baselines, heads and\n"
        "MLPs. How far is the output from the other prompts', for how large an edit, of how many features?\n"
        "With --settle, also ablate and scale the features found and compare with what was predicted.",
        ioi.IoiOptions,
        "ioi:run_the_ioi",
        example="sparsescope ioi runs/demo --settle",
    ),
    Command(
        "circuit",
        "the features of several sites that a task goes through, and what they give each other",
        "Find the latents and error terms of a run's dictionaries through which a task goes, and the edges\n"
        "between them; then measure, on other prompts, how much of the behaviour is left when everything\n"
        "else is replaced, beside circuits of neurons and of random nodes.",
        circuit.CircuitOptions,
        "circuit:run_the_circuit",
        example="sparsescope circuit runs/circuits --task agreement",
    ),
    Command(
        "feature",
        "a case study of one latent: its tokens, what it does to the output, where it comes from",
        "Study one latent: which tokens it is active on, what ablating it does to the prediction of the next\n"
        "token, the shortest contexts that excite it and, with --tree, the latents of earlier sites that it\n"
        "is made from. With --token, list the latents that go best with a token instead.",
        feature.FeatureOptions,
        "feature:run_the_feature",
        example="sparsescope feature runs/circuits resid_post.3 --token '('",
    ),
    Command(
        "steer",
        "write text with latents turned up, at a fixed cost in KL",
        "Generate text with latents of a dictionary added or scaled, beside the unsteered text, at the strength\n"
        "that changes the predictions by a given KL on held-out text; a comparable latent and a random\n"
        "direction at the same KL stand beside it.",
        steering.SteerOptions,
        "steering:run_the_steering",
        example="sparsescope steer runs/demo topk-k_16-x4 100 --prompt 'One day'",
    ),
    Command(
        "erase",
        "take a concept out of the activations, and see what else goes",
        "Erase the gender of names by dictionary features, mean difference, LEACE and random directions; measure\n"
        "on other names and templates what a probe and the model itself can still tell, and the harm done to\n"
        "unrelated text.",
        steering.EraseOptions,
        "steering:run_the_erasure",
        example="sparsescope erase runs/demo",
    ),
    Command(
        "report",
        "write the report of a run again",
        "Write report.html and report.json of a run from the numbers it holds. Nothing is measured again.",
        options.ReportOptions,
        "commands:run_the_report",
        example="sparsescope report runs/demo",
    ),
    Command(
        "inspect",
        "what is in this artifact, and is it whole?",
        "Say what an artifact holds, what it was made from, and whether every file is as it was written.",
        options.InspectOptions,
        "inspect:run_the_inspection",
        example="sparsescope inspect runs/demo",
    ),
    Command(
        "explore",
        "look at the features: pages over a run, served here or written as files",
        "Serve pages over a run on 127.0.0.1: every latent with its contexts, explanation, scores and effect;\n"
        "search, comparisons, circuits, and prompts with the model at work. What the pages need of each latent is\n"
        "gathered first, once. With --static, write the pages as files for any host, or for file://.",
        explore.ExploreOptions,
        "explore:run_the_explorer",
        example="sparsescope explore runs/demo",
    ),
    Command(
        "rate",
        "people rate latents, blind, on a local page",
        "Serve a page on 127.0.0.1 where people find the intruder among contexts of a latent, write what it\n"
        "responds to and grade how well one meaning explains it. The dictionary is hidden. Every answer goes\n"
        "into the run at once; a rater who comes back goes on where they stopped.",
        rating.RateOptions,
        "rating:run_the_rating",
        example="sparsescope rate runs/demo",
    ),
    Command(
        "export",
        "features for SAEDashboard and Neuronpedia",
        "Write the dashboards of dictionaries of a run in the format of SAEDashboard, or that of Neuronpedia's\n"
        "upload with explanations beside them. The run is prepared by 'sparsescope explore'. What the formats\n"
        "have room for and a run does not hold is left empty: see docs/interchange.md.",
        exchange.ExportOptions,
        "exchange:run_the_export",
        example="sparsescope export runs/demo --format neuronpedia --dictionary topk-k_16-x4 --out upload",
    ),
    Command(
        "import",
        "explanations from Neuronpedia",
        "Store explanations that Neuronpedia exported beside those of the run, by the number of the latent.\n"
        "Explanations that cannot be of the dictionary are refused.",
        exchange.ImportOptions,
        "exchange:run_the_import",
        example="sparsescope import runs/demo explanations/batch-*.jsonl.gz --dictionary topk-k_16-x4",
    ),
    Command(
        "bench",
        "how fast and how well training works here, beside other libraries",
        "Time one training step of every method beside SAELens, dictionary_learning, sparsify and\n"
        "overcomplete (where installed: pip install 'sparsescope[bench]'), as multiples of the one matrix\n"
        "product that cannot be avoided; then train planted dictionaries with all of them and compare what\n"
        "they find. Close everything else: samples that other processes disturbed are counted.",
        options.BenchOptions,
        "bench:run_the_bench",
        example="sparsescope bench --quick --json-out bench.json",
    ),
)
