//! Unmodified `lm-eval` scores texts over HTTP (`local-completions`, tasks in `tests/lm_eval/`). Its metrics must equal
//! those that are computed here from the logits of the decoder, without engine and server.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;

use std::process::Command;

use common::file;
use ortolan::text::SpecialTokens;
use serde::Deserialize;
use serde_json::Value;
use standalone_decoder::{CONTEXT, StandaloneDecoder, distribution};

use program::ready_with;
use running::Running;

#[derive(Deserialize)]
struct Question {
    question: String,
    choices: Vec<String>,
    answer: usize,
}

#[derive(Deserialize)]
struct LastWord {
    context: String,
    word: String,
}

/// The probability of a continuation.
struct Score {
    /// Natural logarithm of the probability.
    logprob: f64,
    /// Whether each token was the most probable one.
    greedy: bool,
}

fn lines<T: for<'a> Deserialize<'a>>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(file("tests/lm_eval").join(name)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn task_metrics_over_http_equal_those_of_the_decoder() {
    let found = metrics_over_http();
    let mut model = StandaloneDecoder::load();

    let questions: Vec<Question> = lines("questions.jsonl");
    let (mut correct, mut correct_by_length) = (0.0, 0.0);
    for question in &questions {
        let scores: Vec<f64> = question
            .choices
            .iter()
            .map(|choice| score(&mut model, &question.question, &format!(" {choice}")).logprob)
            .collect();
        let lengths = question
            .choices
            .iter()
            .map(|choice| choice.chars().count() as f64);
        let by_length: Vec<f64> = scores
            .iter()
            .zip(lengths)
            .map(|(score, n)| score / n)
            .collect();
        correct += f64::from(u8::from(best(&scores) == question.answer));
        correct_by_length += f64::from(u8::from(best(&by_length) == question.answer));
    }
    let count = questions.len() as f64;
    check(&found, "ortolan_choice", "acc", correct / count);
    check(
        &found,
        "ortolan_choice",
        "acc_norm",
        correct_by_length / count,
    );

    let words: Vec<LastWord> = lines("words.jsonl");
    let scores: Vec<Score> = words
        .iter()
        .map(|last| score(&mut model, &last.context, &last.word))
        .collect();
    let count = scores.len() as f64;
    let logprobs: f64 = scores.iter().map(|score| score.logprob).sum();
    check(
        &found,
        "ortolan_word",
        "perplexity",
        (-logprobs / count).exp(),
    );
    let greedy = scores.iter().filter(|score| score.greedy).count();
    check(&found, "ortolan_word", "acc", greedy as f64 / count);
}

/// Runs `lm-eval`; returns the metrics of all tasks as it writes them.
fn metrics_over_http() -> Value {
    let python = file(".cache/lm_eval/bin/python");
    assert!(python.exists(), "run `make test-clients`");
    let (_server, address) = ready_with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer");
    let tasks = file("tests/lm_eval");
    let mut make_tokenizer = Command::new(&python);
    make_tokenizer
        .arg(tasks.join("tokenizer_of_gguf.py"))
        .arg(common::model())
        .arg(&tokenizer);
    Running::start(&mut make_tokenizer).wait_for_success();

    let model = format!(
        "base_url={address}/v1/completions,model=any,tokenizer={},max_length=256",
        tokenizer.display()
    );
    let mut lm_eval = Command::new(&python);
    lm_eval
        // The tasks refer to their data relative to the working directory.
        .current_dir(&tasks)
        .args(["-m", "lm_eval", "run", "--model", "local-completions"])
        .args(["--model_args", &model, "--include_path", "."])
        .args(["--tasks", "ortolan_choice,ortolan_word", "--output_path"])
        .arg(folder.path())
        .env("HF_HOME", folder.path())
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_DATASETS_OFFLINE", "1")
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut lm_eval).wait_for_success();
    let files = std::fs::read_dir(folder.path().join("any")).unwrap();
    let results = files
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("results_"));
    let results: Value = serde_json::from_slice(&std::fs::read(results.unwrap()).unwrap()).unwrap();
    results["results"].clone()
}

/// Scores `text` as a continuation of `context`. As in `lm-eval`, whitespace at the end of the context belongs to the
/// text.
fn score(model: &mut StandaloneDecoder, context: &str, text: &str) -> Score {
    let whole = format!("{context}{text}");
    let encode = |text: &str| model.tokenizer.encode(text, SpecialTokens::Parse);
    let (tokens, context_tokens) = (encode(&whole), encode(context.trim_end()).len());
    let rows = model.logits(&tokens, &[CONTEXT]);
    let mut score = Score {
        logprob: 0.0,
        greedy: true,
    };
    for (row, token) in rows[context_tokens - 1..]
        .iter()
        .zip(&tokens[context_tokens..])
    {
        let (best, logprob) = distribution(row);
        score.logprob += logprob(token.row());
        score.greedy &= best == token.row();
    }
    score
}

/// Index of the largest score; of the first one if there are several.
fn best(scores: &[f64]) -> usize {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().position(|score| *score == largest).unwrap()
}

#[track_caller]
fn check(results: &Value, task: &str, metric: &str, expected: f64) {
    let found = results[task][format!("{metric},none")].as_f64();
    let found = found.unwrap_or_else(|| panic!("{task} has no metric {metric}: {results}"));
    assert!(
        (found - expected).abs() < 5e-5 * expected.abs().max(1.0),
        "{task}: {metric} is {found} over HTTP, but {expected} from the decoder"
    );
}
