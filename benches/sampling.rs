//! CPU cost of a generated token outside the model: sampling from logits, detokenization with stop strings, and grammar
//! masks.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::random::Random;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::grammar::{Constraint, GrammarCompiler, GrammarSource, Tokenization};
use ortolan::model::{TokenizerVocabulary, load};
use ortolan::sampling::{Sampler, SamplerInputs, SamplingParameters};
use ortolan::text::{
    Algorithm, DeclaredInfillTokens, SpecialTokens, TextStream, TokenKind, Tokenizer, Vocabulary,
};
use ortolan::token::TokenId;

/// Vocabulary sizes of the default model and of Gemma 3.
const VOCABULARIES: [usize; 2] = [49_152, 262_144];

/// Normally distributed logits with a few tokens far above the others, similar to those of language models.
fn logits(count: usize) -> Vec<f32> {
    let mut random = Random(1);
    let mut uniform = || random.uniform();
    let mut logits: Vec<f32> = (0..count)
        .map(|_| 2.0 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0))
        .collect();
    for rank in 0..20 {
        let row = (uniform() * count as f32) as usize;
        logits[row.min(count - 1)] = 16.0 - rank as f32 / 2.0;
    }
    logits
}

fn sampling(criterion: &mut Criterion) {
    let nucleus = SamplingParameters {
        top_p: 0.95,
        ..SamplingParameters::openai()
    };
    let greedy = SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::native()
    };
    let chains = [
        ("native", SamplingParameters::native()),
        ("openai", SamplingParameters::openai()),
        ("top_p only", nucleus),
        ("greedy", greedy),
    ];
    let tokens = SamplerInputs {
        prompt: (0..64).map(TokenId).collect(),
        ..SamplerInputs::default()
    };
    let mut group = criterion.benchmark_group("sample");
    for count in VOCABULARIES {
        let logits = logits(count);
        for (name, parameters) in &chains {
            let mut sampler = Sampler::new(parameters.clone(), 7, tokens.clone());
            group.bench_function(BenchmarkId::new(*name, count), |bencher| {
                bencher.iter_batched_ref(
                    || logits.clone(),
                    |logits| sampler.sample(black_box(logits)),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

/// A tokenizer whose tokens are single bytes.
fn tokenizer() -> Tokenizer {
    let printable = (b'!'..=b'~').map(char::from);
    let latin = ('\u{A1}'..='\u{FF}').filter(|&letter| letter != '\u{AD}');
    let others = '\u{100}'..='\u{143}';
    let tokens: Vec<String> = printable
        .chain(latin)
        .chain(others)
        .map(String::from)
        .collect();
    Tokenizer::new(Vocabulary {
        algorithm: Algorithm::ByteLevelBpe {
            pre: "gpt-2".to_owned(),
            merges: Vec::new(),
        },
        kinds: vec![TokenKind::Normal; tokens.len()],
        tokens,
        bos: None,
        eos: None,
        eot: None,
        eog_tokens: Vec::new(),
        strip_sides: Vec::new(),
        adds_bos: false,
        adds_eos: false,
        infill: DeclaredInfillTokens::default(),
    })
    .expect("every byte is exactly one token")
}

fn streaming(criterion: &mut Criterion) {
    let tokenizer = Arc::new(tokenizer());
    let text = "Der Ortolan ist ein kleiner Singvogel; er wiegt etwa 20 g – kaum mehr als 🙂. ";
    let tokens = tokenizer.encode(&text.repeat(50), SpecialTokens::Literal);
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(tokens.len() as u64));
    for stops in [0, 1, 4, 16] {
        let stop: Vec<String> = (0..stops).map(|number| format!("etwa {number}!")).collect();
        group.bench_function(BenchmarkId::new("stop strings", stops), |bencher| {
            bencher.iter(|| {
                let mut stream = TextStream::new(Arc::clone(&tokenizer), stop.clone());
                let bytes: usize = tokens
                    .iter()
                    .map(|&token| stream.push(token).text.len())
                    .sum();
                bytes + stream.finish().len()
            });
        });
    }
    group.finish();
}

/// The default model's tokenizer.
fn default_tokenizer() -> anyhow::Result<Tokenizer> {
    let gguf = Gguf::open(&common::model(), FileAccess::Map)?;
    Ok(Tokenizer::new(load::vocabulary(gguf.metadata())?)?)
}

fn grammars(criterion: &mut Criterion) {
    const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( string ":" value ("," string ":" value)* )? "}"
array  ::= "[" ( value ("," value)* )? "]"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)?
"#;
    const NESTED: &str = r#"{"birds":[{"name":"ortolan","weight":24.5,"sings":true,"range":{"from":"Spain","to":[1,2,[3,4,{"a":null}]]}},{"name":"Ammer é","weight":0,"sings":false,"range":{}}],"more":[[[[]]],"x","yy","zzz",-12.75]}"#;
    const DATE: &str = r#"root ::= [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} " " .*"#;

    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "born": {"type": "string", "format": "date"},
            "sings": {"type": "boolean"},
            "eggs": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 500}},
        },
        "required": ["name", "born", "sings", "eggs"],
        "additionalProperties": false,
    });
    let tokenizer = Arc::new(default_tokenizer().expect("the default model is in .cache"));
    let compiler = || {
        GrammarCompiler::new(Arc::new(TokenizerVocabulary(Arc::clone(&tokenizer))))
            .expect("the vocabulary is supported")
    };
    let mut group = criterion.benchmark_group("grammar");
    group.sample_size(20);
    group.bench_function("create a compiler", |bencher| {
        bencher.iter(|| black_box(compiler()));
    });
    let compiler = compiler();
    let mut logits = vec![0.0; tokenizer.vocabulary_size()];
    for (name, grammar, text) in [
        (
            "json",
            GrammarSource::Gbnf(JSON.to_owned()),
            NESTED.to_owned(),
        ),
        (
            "date",
            GrammarSource::Gbnf(DATE.to_owned()),
            "2026-11-24 is a day like any other in the north".to_owned(),
        ),
        (
            "schema",
            GrammarSource::JsonSchema {
                schema,
                strict: false,
            },
            bird(),
        ),
    ] {
        let constraint = || {
            compiler
                .compile(&grammar, Tokenization::Any)
                .expect("the grammar is valid")
        };
        group.bench_function(BenchmarkId::new("compile", name), |bencher| {
            bencher.iter(|| black_box(constraint()));
        });
        // All masks of a text from its beginning, with a new constraint: no state is cached from an earlier run.
        let tokens = tokenizer.encode(&text, SpecialTokens::Literal);
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(BenchmarkId::new("mask and accept", name), |bencher| {
            let follow = |mut constraint: Constraint| {
                for token in &tokens {
                    constraint
                        .mask(black_box(&mut logits))
                        .expect("the mask can be computed");
                    constraint
                        .accept(*token)
                        .expect("the text follows the grammar");
                }
                constraint
            };
            bencher.iter_batched(constraint, follow, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// A text that follows the schema and never repeats a grammar state.
fn bird() -> String {
    let eggs: Vec<String> = (0..60)
        .map(|number| (number * 37 % 500).to_string())
        .collect();
    let name: String = (0..40)
        .map(|number| format!("{} ortolan of {number}, ", number * number))
        .collect();
    format!(
        r#"{{"name": "{name}", "born": "2026-11-24", "sings": true, "eggs": [{}]}}"#,
        eggs.join(", ")
    )
}

criterion_group!(benches, sampling, streaming, grammars);
criterion_main!(benches);
