//! Tests of the command line, the environment and the options file.

use std::fs;

use bytesize::ByteSize;

use super::*;
use crate::file_bytes::FileAccess;
use crate::gguf::quant::QuantizeTarget;
use crate::platform::NumaStrategy;
use crate::runtime::DeviceChoice;

/// Parses a command line without the program's name.
fn parse(line: &str) -> Result<Cli, String> {
    let args = std::iter::once("ortolan").chain(line.split_whitespace());
    Cli::from_args(args.map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn clap_accepts_the_definition_of_the_options() {
    Cli::command().debug_assert();
}

fn invocation(line: &str) -> Result<Invocation, String> {
    let args = std::iter::once("ortolan").chain(line.split_whitespace());
    Invocation::from_args(args.map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn a_command_line_that_starts_with_a_command_runs_the_command() {
    let inspect = |line: &str| match invocation(line) {
        Ok(Invocation::Command(Command::Inspect(args))) => args,
        other => panic!("{other:?}"),
    };
    let args = inspect("inspect a.gguf -c 8 -np 3 --json");
    assert_eq!((args.ctx_size, args.parallel), (8, 3));
    assert!(args.json && !args.tensors);
    let defaults = inspect("inspect -- -np");
    assert_eq!((defaults.ctx_size, defaults.parallel), (512, 1));
    assert_eq!(defaults.path, PathBuf::from("-np"));
    let quantize = invocation("quantize a.gguf b.gguf Q8_0 --output-type F16");
    let Ok(Invocation::Command(Command::Quantize(args))) = quantize else {
        panic!("{quantize:?}");
    };
    let types = (
        args.target_type,
        args.output_tensor_type,
        args.token_embedding_type,
    );
    assert_eq!(
        types,
        (QuantizeTarget::Q8_0, Some(QuantizeTarget::F16), None)
    );
    for line in [
        "inspect",
        "inspect a b",
        "quantize a b",
        "export a",
        "inspect a --port 1",
    ] {
        assert!(invocation(line).is_err(), "{line}");
    }
}

#[test]
fn a_command_line_without_a_command_starts_the_server() {
    let serve = invocation("-m inspect");
    assert!(matches!(serve, Ok(Invocation::Serve(_))), "{serve:?}");
    for line in ["-m a.gguf inspect b.gguf", "nonsense", "-- inspect a"] {
        assert!(invocation(line).is_err(), "{line}");
    }
    let help = invocation("--help").unwrap_err();
    let quantize_help = invocation("help quantize").unwrap_err();
    assert!(
        help.starts_with("Serve a language model")
            && help.contains("--ctx-size")
            && help.contains("  quantize "),
        "{help}"
    );
    assert!(
        quantize_help.contains("--token-embedding-type"),
        "{quantize_help}"
    );
}

#[test]
fn accepts_llama_cpp_option_names_of_2024() {
    let short =
        parse("-m a.gguf -c 128 -np 3 -ub 64 -b 256 -n -1 -ngl 0 -cb -t 2 -a name -to 9").unwrap();
    let long = parse(
        "--model a.gguf --ctx-size 128 --parallel=3 --ubatch-size 64 --batch-size 256 --n-predict=-1 \
         --n-gpu-layers 0 --cont-batching --threads 2 --alias name --timeout 9",
    );
    assert_eq!(Ok(short.clone()), long);
    assert_eq!((short.batching.parallel, short.model.ctx_size), (3, 128));
    let line = "-m a.gguf --log-disable --embeddings --no-slots --log-format text --predict 5";
    let switches = parse(line).unwrap();
    assert!(switches.logging.log_disable && switches.serving.embedding);
    assert!(switches.serving.slots_endpoint_disable);
    assert_eq!(switches.logging.log_format, LogFormat::Text);
    assert_eq!(switches.batching.n_predict, 5);
}

#[test]
fn the_prefill_share_is_greater_than_0_and_less_than_1() {
    let share = |line: &str| parse(line).map(|cli| cli.batching.prefill_share);
    assert_eq!(share("-m a.gguf"), Ok(0.5));
    assert_eq!(share("-m a.gguf --prefill-share 0.75"), Ok(0.75));
    for invalid in ["0", "1", "-0.5", "1.5", "NaN", "half"] {
        let error = share(&format!("-m a.gguf --prefill-share={invalid}")).unwrap_err();
        assert!(
            error.contains("--prefill-share") && error.contains("greater than 0 and less than 1"),
            "{error}"
        );
    }
}

#[test]
fn defaults_are_those_of_llama_cpp_in_2024() {
    let Cli {
        model,
        batching,
        serving,
        logging,
        ..
    } = parse("-m a.gguf").unwrap();
    assert_eq!((model.ctx_size, batching.parallel), (512, 1));
    assert_eq!((batching.n_predict, batching.seed), (-1, -1));
    assert_eq!((batching.batch_size, batching.ubatch_size), (2048, 512));
    assert_eq!((serving.host.as_str(), serving.port), ("127.0.0.1", 8080));
    assert_eq!(
        (serving.timeout, logging.log_format),
        (600, LogFormat::Json)
    );
}

#[test]
fn quantize_takes_a_type_that_can_be_written() {
    let quantize = |line| parse(line).map(|cli| cli.model.quantize);
    assert_eq!(quantize("-m folder").unwrap(), None);
    let eight_bits = Some(QuantizeTarget::Q8_0);
    assert_eq!(quantize("-m folder --quantize Q8_0").unwrap(), eight_bits);
    assert!(quantize("-m folder --quantize q4_k").is_err());
}

#[test]
fn the_cache_size_is_given_in_tokens_or_in_bytes() {
    let cli = parse("-m a.gguf --memory-budget 2GiB").unwrap();
    assert_eq!(cli.batching.memory_budget, Some(ByteSize::gib(2)));
    assert!(parse("-m a.gguf --memory-budget 2GiB --cache-tokens 1").is_err());
    assert!(parse("-m a.gguf --memory-budget plenty").is_err());
}

#[test]
fn the_model_has_one_source() {
    for line in [
        "-mu http://a/b.gguf -m b.gguf",
        "-hfr a/b -hff c.gguf",
        "-hf a/b:Q8_0",
        "--hf-repo=a/b --offline",
    ] {
        parse(line).unwrap();
    }
    for line in ["-hf a/b -mu http://a/b.gguf", "-m a.gguf -hff c.gguf"] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn unsupported_and_unknown_options_are_rejected_by_name() {
    for line in ["-m a.gguf --mmproj secret", "-m a.gguf --grp-attn-n=4"] {
        let error = parse(line).unwrap_err();
        assert!(error.contains("not supported yet"), "{error}");
    }
    assert!(
        parse("-m a.gguf --nonsense")
            .unwrap_err()
            .contains("--nonsense")
    );
    assert!(parse("").unwrap_err().contains("--model"));
}

#[test]
fn adapter_ids_follow_the_order_on_the_command_line() {
    let adapters = |line: &str| {
        let adapters = parse(&format!("-m a.gguf {line}"))?.model.adapters.0;
        let pair = |file: AdapterFile| (file.path.display().to_string(), file.scale);
        Ok::<_, String>(adapters.into_iter().map(pair).collect::<Vec<_>>())
    };
    let both = ["a", "b:c", "d", "e"].map(str::to_owned);
    let both: Vec<_> = both.into_iter().zip([0.5, -2.0, 1.0, 1.0]).collect();
    assert_eq!(
        adapters("--lora-scaled a 0.5 --lora-scaled b:c:-2 --lora d,e"),
        Ok(both)
    );
    let last = vec![("x".to_owned(), 1.0), ("y".to_owned(), -0.25)];
    assert_eq!(adapters("--lora x --lora-scaled y -0.25"), Ok(last));
    for line in ["a", "a strong", "a:nan", "a 1000"] {
        assert!(
            adapters(&format!("--lora-scaled {line}")).is_err(),
            "{line}"
        );
    }
}

#[test]
fn accepts_current_llama_cpp_option_names() {
    let cli = parse(
        "-m a.gguf -tb 4 -mg 0 -ts 3,1 --temp -1 -s 7 --slots --log-jsonl --load-mode mmap+mlock",
    );
    let cli = cli.unwrap();
    assert_eq!(
        (cli.computing.threads_batch, cli.computing.main_gpu),
        (Some(4), Some(0))
    );
    assert_eq!(cli.computing.tensor_split, [3.0, 1.0]);
    assert_eq!(
        (cli.batching.temperature, cli.batching.seed),
        (Some(-1.0), 7)
    );
    let mapped_and_locked = LoadMode {
        access: FileAccess::Map,
        lock_memory: true,
    };
    assert_eq!(cli.model.load_mode, Some(mapped_and_locked));
    assert_eq!(cli.logging.log_format, LogFormat::Json);
    for line in [
        "--slots --no-slots",
        "--log-jsonl --log-format text",
        "--load-mode none --mlock",
        "--load-mode nonsense",
        "--temp warm",
    ] {
        assert!(parse(&format!("-m a.gguf {line}")).is_err(), "{line}");
    }
}

#[test]
fn numa_without_a_value_means_distribute() {
    let numa = |line| parse(line).unwrap().computing.numa;
    assert_eq!(numa("--numa -m a.gguf"), Some(NumaStrategy::Distribute));
    assert_eq!(
        numa("-m a.gguf --numa isolate"),
        Some(NumaStrategy::Isolate)
    );
    assert_eq!(
        numa("-m a.gguf --numa=numactl"),
        Some(NumaStrategy::Inherit)
    );
    assert!(parse("-m a.gguf --numa nearby").is_err());
}

#[test]
fn a_hidden_alias_is_accepted_but_not_listed() {
    let device = |name: &str| {
        let cli = parse(&format!("-m a.gguf --device {name}"))?;
        Ok::<_, String>(cli.computing.device)
    };
    assert_eq!(device("none"), Ok(DeviceChoice::Cpu));
    let error = device("gpu").unwrap_err();
    assert!(
        error.contains("[possible values: auto, cpu, cuda, coreml]"),
        "{error}"
    );
}

#[test]
fn short_names_of_several_letters_are_never_split() {
    let short = "-m a.gguf -ctk f16 -ctv=f16 -fa -sm layer -kvu -lm none -dev none -mg 0 -gan=1";
    let error = parse(short).unwrap_err();
    assert!(
        error.contains("--grp-attn-n is not supported yet"),
        "{error}"
    );
    let short = short.replace(" -gan=1", "");
    let long = "--model a.gguf --cache-type-k f16 --cache-type-v f16 --flash-attn on --split-mode layer --kv-unified \
                --load-mode none --device cpu --main-gpu 0";
    assert_eq!(parse(&short), parse(long));
    let computing = |line: &str| parse(line).unwrap().computing;
    let modes = [
        "-fa auto",
        "-fa=off",
        "-fa 1",
        "-fa -ngl 99",
        "--flash-attn",
    ];
    let modes = modes.map(|line| computing(&format!("-m a.gguf {line}")).flash_attn);
    let expected = [
        FlashAttention::Auto,
        FlashAttention::Off,
        FlashAttention::On,
        FlashAttention::On,
        FlashAttention::On,
    ];
    assert_eq!(modes, expected.map(Some));

    for (args, problem) in [
        ("-ctk q8_0", "'q8_0' for '--cache-type-k <TYPE>'"),
        ("-ctv=q4_0", "'q4_0' for '--cache-type-v <TYPE>'"),
        ("-cram 512", "-cram (--cache-ram) is not supported"),
        ("--cache-ram=512", "-cram (--cache-ram) is not supported"),
        ("-np3", "unexpected argument '-np3': write -np 3"),
        ("-nocb", "-nocb (--no-cont-batching) is not supported"),
        ("-ctkd f16", "-ctkd (--cache-type-k-draft) is not supported"),
        ("-sp", "-sp (--special) is not supported"),
        ("-lv 1", "RUST_LOG"),
        ("-sm row", "'row' for '--split-mode <MODE>'"),
        ("-cx 3", "unexpected argument '-cx'"),
        ("-cx=3", "unexpected argument '-cx'"),
        ("-tt", "unexpected argument '-tt'"),
        ("-xyz", "unexpected argument '-xyz'"),
        ("-ctx-size 4096", "write --ctx-size"),
        ("-embeddings", "write --embeddings"),
        ("-n-predict 5", "write --n-predict"),
        ("-mb.gguf", "write -m b.gguf"),
        ("-hV", "unexpected argument '-hV'"),
    ] {
        let error = parse(&format!("-m a.gguf {args}")).unwrap_err();
        assert!(error.contains(problem), "{args}: {error}");
    }
    // clap accepts values that directly follow the letter.
    let cli = parse("-m./a.gguf -c4096 -n-1 -t=2 -s7").unwrap();
    assert_eq!(cli.model.model, Some(PathBuf::from("./a.gguf")));
    assert_eq!((cli.model.ctx_size, cli.batching.n_predict), (4096, -1));
    assert_eq!((cli.computing.threads, cli.batching.seed), (Some(2), 7));
}

/// Short names are unique; long names of supported options exist, and those of unsupported options do not.
#[test]
fn the_tables_of_short_names_match_the_options() {
    let names = short_names::names();
    let short: std::collections::BTreeSet<_> = names.iter().map(|(short, _)| short).collect();
    assert_eq!(short.len(), names.len());
    let command = Cli::command();
    let exists = |long: &str| {
        command.get_arguments().any(|option| {
            let aliases = option.get_all_aliases().unwrap_or_default();
            option.get_long() == Some(long) || aliases.contains(&long)
        })
    };
    for (short, long) in names {
        let known = exists(&long[2..]) || UNSUPPORTED_YET.contains(&long);
        for name in [short, long] {
            let error = parse(&format!("-m a.gguf {name}=x")).err();
            let is_refused = error.is_some_and(|error| error.contains("is not supported: "));
            assert_eq!(is_refused, !known, "{name}");
        }
    }
}

/// Parses a command line in which `{}` stands for the path of an options file with the content `file`.
fn parse_with(file: &str, line: &str) -> Result<Cli, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("options.toml");
    fs::write(&path, file).unwrap();
    parse(&line.replace("{}", path.to_str().unwrap()))
}

#[test]
fn the_options_file_sets_options_that_the_command_line_does_not() {
    let file = r#"
        model = "a.gguf"
        ctx-size = 4096
        temp = 0.5
        metrics = true
        mlock = false
        api-key = ["one", "two"]
        "#;
    let mut cli = parse_with(file, "--config {} -c 128").unwrap();
    assert!(cli.config.take().is_some());
    let line = "-m a.gguf -c 128 --temp 0.5 --metrics --api-key one --api-key two";
    assert_eq!(Ok(cli), parse(line));
}

#[test]
fn the_command_line_overrides_conflicting_options_of_the_file() {
    let file = "model = 'a.gguf'\ncache-tokens = 4096\nlog-format = 'text'";
    let cli = parse_with(file, "--memory-budget 2GiB --config={} --log-jsonl").unwrap();
    assert_eq!(cli.batching.cache_tokens, None);
    assert_eq!(cli.logging.log_format, LogFormat::Json);
}

#[test]
fn invalid_options_files_are_rejected_with_the_cause() {
    for (file, cause) in [
        ("ctx-size 4096", "options.toml: TOML parse error at line 1"),
        ("ctx_size = 4096", "options.toml: ctx_size: unknown option"),
        ("ctx-size = 'many'", "'many' for '--ctx-size <N>'"),
        (
            "ctx-size = true",
            "ctx-size: expected a value, not a boolean",
        ),
        (
            "ctx-size = [1, 2]",
            "ctx-size: expected one value, not a list",
        ),
        ("ctx-size = {}", "ctx-size: expected a number or a string"),
        ("api-key = []", "api-key: the list is empty"),
        ("allowed-hosts = []", "allowed-hosts: the list is empty"),
        ("api-key-file = []", "api-key-file: the list is empty"),
        ("metrics = 1", "metrics: expected true or false"),
        (
            "config = 'other.toml'",
            "config: not allowed in an options file",
        ),
        ("mmproj = 'x'", "--mmproj is not supported yet"),
        (
            "lora-scaled = 'a.gguf'",
            "the scale is missing: expected FILE:SCALE",
        ),
        (
            "cache-tokens = 1\nmemory-budget = '1GiB'",
            "cannot be used with",
        ),
    ] {
        let error = parse_with(file, "-m a.gguf --config {}").unwrap_err();
        assert!(error.contains(cause), "{file}: {error}");
    }
    let long = format!("# {}", "x".repeat(1 << 20));
    let error = parse_with(&long, "-m a.gguf --config {}").unwrap_err();
    assert!(
        error.contains("the file is larger than 1048576 bytes"),
        "{error}"
    );
    let error = parse("-m a.gguf --config /nowhere/a.toml").unwrap_err();
    assert!(
        error.contains("--config /nowhere/a.toml: No such file"),
        "{error}"
    );
}

#[test]
fn every_option_but_log_disable_has_an_environment_variable() {
    let without_variable: Vec<String> = Cli::command()
        .get_arguments()
        .filter(|option| option.get_env().is_none())
        .map(|option| option.get_id().to_string())
        .collect();
    assert_eq!(without_variable, ["log_disable"]);
}
