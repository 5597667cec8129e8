"""One module per subcommand of qwen3-tts."""
