"""The examples of each command's help page: what each does, and its command line."""

from __future__ import annotations

# By the words that call the command; "" is the program without a command.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("Download the best quantization for this machine:", "qwenctl pull qwen3.5-35b-a3b"),
        ("Chat with it:", "qwenctl chat -m qwen3.5-35b-a3b"),
    ),
    "pull": (
        ("Download the best quantization for this machine:", "qwenctl pull qwen3.5-35b-a3b"),
        ("Quantize while downloading:", "qwenctl pull Qwen/Qwen3.5-35B-A3B --quantize Q4_K_M"),
    ),
    "ls": (
        ("List local models:", "qwenctl ls"),
        ("List what a repository offers:", "qwenctl ls unsloth/Qwen3.5-35B-A3B-GGUF"),
    ),
    "show": (
        ("Show a model's files and metadata:", "qwenctl show qwen3.5-35b-a3b"),
        ("The same as JSON:", "qwenctl show qwen3.5-35b-a3b --json"),
    ),
    "verify": (
        ("Verify all local models:", "qwenctl verify"),
        ("Verify one, and print only problems:", "qwenctl verify qwen3.5-35b-a3b -q"),
    ),
    "rm": (
        ("Remove one quantization:", "qwenctl rm qwen3.5-35b-a3b:Q4_K_M"),
        ("Remove all of a model, without asking:", "qwenctl rm qwen3.5-35b-a3b --yes"),
    ),
    "clean": (
        ("Show what can be removed:", "qwenctl clean --dry-run"),
        ("Remove it without asking:", "qwenctl clean --yes"),
    ),
    "quantize": (
        ("Quantize a checkpoint folder:", "qwenctl quantize Qwen3.5-35B-A3B --type Q4_K_M -o qwen.gguf"),
        ("Show what a repository's model would become:", "qwenctl quantize Qwen/Qwen3.5-35B-A3B --type Q2_K --dry-run"),
    ),
    "chat": (
        ("Start a chat:", "qwenctl chat -m qwen.gguf"),
        ("Get one answer:", "cat notes.txt | qwenctl chat -m qwen.gguf 'Summarize this' > summary.txt"),
    ),
    "plan": (
        ("Plan for this machine:", "qwenctl plan qwen.gguf"),
        (
            "Plan a model on the Hub for another machine:",
            "qwenctl plan Qwen/Qwen3.5-397B-A17B --type Q4_K_M --gpu-memory 24G --ram 256G",
        ),
    ),
    "batch": (
        ("Answer records, or resume where it stopped:", "qwenctl batch in.jsonl -o out.jsonl -m qwen.gguf"),
        (
            "Translate a column of a CSV file:",
            "qwenctl batch words.csv --csv --prompt 'Translate {text}' -o out.jsonl -m qwen.gguf",
        ),
    ),
    "bench": (
        ("Measure prompt and generation speed:", "qwenctl bench qwen.gguf"),
        ("Draw the speed over the context length:", "qwenctl bench qwen.gguf -d 0-16384+4096 --plot speed.svg"),
    ),
    "tune": (
        ("Find faster settings and save them:", "qwenctl tune qwen.gguf --time-limit 30m"),
        ("Remove the saved settings:", "qwenctl tune qwen.gguf --forget"),
    ),
    "doctor": (
        ("Check this machine:", "qwenctl doctor"),
        ("Measure memory and disks again:", "qwenctl doctor --measure --disk"),
    ),
    "worker": (
        ("Serve all GPUs of this machine:", "qwenctl worker"),
        ("Serve one GPU on another port:", "qwenctl worker --device CUDA0 --port 50053"),
    ),
    "sessions": (
        ("List saved conversations:", "qwenctl sessions"),
        ("Write one as Markdown:", "qwenctl sessions export my-project -o chat.md"),
    ),
    "sessions show": (
        ("Show a conversation:", "qwenctl sessions show my-project"),
        ("The same as JSON:", "qwenctl sessions show my-project --json"),
    ),
    "sessions export": (
        ("Write a conversation as Markdown:", "qwenctl sessions export my-project -o chat.md"),
        ("Print it as JSON:", "qwenctl sessions export my-project --format json"),
    ),
    "sessions delete": (
        ("Delete a conversation:", "qwenctl sessions delete my-project"),
        ("Delete several:", "qwenctl sessions delete my-project 'another one'"),
    ),
    "prefixes": (
        ("List saved prefixes:", "qwenctl prefixes"),
        ("Save one:", "qwenctl chat -m qwen.gguf --prefix handbook.md --save-as handbook"),
    ),
    "prefixes show": (
        ("Print a prefix:", "qwenctl prefixes show handbook"),
        ("Write it to a file:", "qwenctl prefixes show handbook > handbook.md"),
    ),
    "prefixes delete": (
        ("Delete a prefix:", "qwenctl prefixes delete handbook"),
        ("Delete several:", "qwenctl prefixes delete handbook manual"),
    ),
    "config": (
        ("Show all settings and where they come from:", "qwenctl config show --origin"),
        ("Write a settings file to edit:", "qwenctl config init"),
    ),
    "config show": (
        ("Show the settings of one command:", "qwenctl config show chat"),
        ("Show what a command line would use:", "qwenctl config show --origin -- chat -c 4096"),
    ),
    "config path": (
        ("Show which files are read:", "qwenctl config path"),
        ("Edit the user's file:", 'nano "$(qwenctl config path | tail -n 1 | cut -c 10-)"'),
    ),
    "config init": (
        ("Write a file with every setting, commented out:", "qwenctl config init"),
        ("Show where it is:", "qwenctl config path"),
    ),
}
