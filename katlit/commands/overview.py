"""What `katlit` can do: its commands, and what `katlit --help` prints."""

TRAINER_COMMANDS = {
    "fit": "train a stage",
    "validate": "evaluate on the validation prompts",
    "test": "evaluate on the test prompts",
    "predict": "run the model over the prompts and keep its answers",
    "label": "only build the data of a stage: sample, verify, vote, write the cache that fit will read",
}
COMMANDS = TRAINER_COMMANDS | {
    "help": "what a command takes, or the settings of a class: `katlit help StepSRPO`",
    "run": "a whole recipe from one file: label, train, evaluate each stage, report; a second call goes on",
    "init": "write a recipe of your own from a few questions, or flags",
    "plan": "with the settings of fit: how much memory it would take on each device",
    "configs": "list the settings files that katlit brings; `copy DIR` copies them",
    "consolidate": "make one file of a checkpoint that FSDP2 or ZeRO has split over the ranks",
    "replay": "show a rollout of a run, explain its advantage, and sample it once more",
    "trace": "show what each agent said about a query that agents have labelled",
    "card": "add an evaluation to the model card of an exported model",
    "report": "read a finished run and write report.html, report.md, report.json, pareto.png",
    "chat": "talk to an exported model, or to a server of one, in the terminal",
    "serve": "serve an exported model to OpenAI's clients, by vLLM",
}


def help_text() -> str:
    """What `katlit --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: katlit COMMAND [options]",
            "",
            "Trains language models that decide by themselves when to think.",
            "",
            "commands:",
            *lines,
            "",
            "Settings come from YAML files, later ones win, the command line last:",
            "  katlit fit -c base.yaml -c my.yaml --trainer.max_steps 100",
            "What a stage is made of:       katlit fit --help",
            "The settings of a class:       katlit help StepSRPO",
            "The settings as they resolve:  katlit fit -c ... --print_config",
            "A log with all details:        katlit -v fit ...",
        ]
    )
