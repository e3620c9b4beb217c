use std::collections::BTreeMap;
use std::time::SystemTime;

use super::*;
use crate::text::{ChatMessage, ChatTemplate};

fn render(name: &str) -> String {
    let template = ChatTemplate::new(predefined(name), "<bos>", "<eos>").unwrap();
    let messages = [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "  Hi there  "),
        ("user", "Who are you?"),
    ]
    .map(|(role, content)| ChatMessage::new(role, content));
    template
        .render(&messages.into(), SystemTime::UNIX_EPOCH)
        .unwrap()
}

#[test]
fn each_template_renders_a_conversation_in_its_models_format() {
    let expected = BTreeMap::from([
        (
            "chatglm3",
            "[gMASK]sop<|system|>\n Be brief.<|user|>\n Hello<|assistant|>\n   Hi there  <|user|>\n Who are you?<|assistant|>",
        ),
        (
            "chatglm4",
            "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHello<|assistant|>\n  Hi there  <|user|>\nWho are you?<|assistant|>",
        ),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n  Hi there  <|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "command-r",
            "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hi there<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Who are you?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        (
            "deepseek",
            "Be brief.### Instruction:\nHello\n### Response:\n  Hi there  \n<|EOT|>\n### Instruction:\nWho are you?\n### Response:\n",
        ),
        (
            "deepseek2",
            "Be brief.\n\nUser: Hello\n\nAssistant:   Hi there  <｜end▁of▁sentence｜>User: Who are you?\n\nAssistant:",
        ),
        (
            "deepseek3",
            "Be brief.\n\n<｜User｜>Hello<｜Assistant｜>  Hi there  <｜end▁of▁sentence｜><｜User｜>Who are you?<｜Assistant｜>",
        ),
        (
            "exaone3",
            "[|system|]Be brief.[|endofturn|]\n[|user|]Hello\n[|assistant|]Hi there[|endofturn|]\n[|user|]Who are you?\n[|assistant|]",
        ),
        (
            "falcon3",
            "<|system|>\nBe brief.\n<|user|>\nHello\n<|assistant|>\n  Hi there  \n<|user|>\nWho are you?\n<|assistant|>\n",
        ),
        (
            "gemma",
            "<start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi there<end_of_turn>\n<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "gigachat",
            "<s>Be brief.<|message_sep|>user<|role_sep|>Hello<|message_sep|>available functions<|role_sep|>[]<|message_sep|>assistant<|role_sep|>  Hi there  <|message_sep|>user<|role_sep|>Who are you?<|message_sep|>available functions<|role_sep|>[]<|message_sep|>assistant<|role_sep|>",
        ),
        (
            "glmedge",
            "<|system|>\nBe brief.<|user|>\nHello<|assistant|>\n  Hi there  <|user|>\nWho are you?<|assistant|>",
        ),
        (
            "granite",
            "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hello<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>  Hi there  <|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Who are you?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>\n",
        ),
        (
            "llama2",
            "[INST] Be brief.\nHello [/INST]  Hi there  </s>[INST] Who are you? [/INST]",
        ),
        (
            "llama2-sys",
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]  Hi there  </s>[INST] Who are you? [/INST]",
        ),
        (
            "llama2-sys-bos",
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]  Hi there  </s><s>[INST] Who are you? [/INST]",
        ),
        (
            "llama2-sys-strip",
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]Hi there</s>[INST] Who are you? [/INST]",
        ),
        (
            "llama3",
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "megrez",
            "<|role_start|>system<|role_end|>Be brief.<|turn_end|><|role_start|>user<|role_end|>Hello<|turn_end|><|role_start|>assistant<|role_end|>  Hi there  <|turn_end|><|role_start|>user<|role_end|>Who are you?<|turn_end|><|role_start|>assistant<|role_end|>",
        ),
        (
            "minicpm",
            "Be brief.<用户>Hello<AI>Hi there<用户>Who are you?<AI>",
        ),
        (
            "mistral",
            "[INST] Be brief.\nHello [/INST]  Hi there  </s>[INST] Who are you? [/INST]",
        ),
        (
            "mistral-v1",
            " [INST] Be brief.\n\nHello [/INST]   Hi there  </s> [INST] Who are you? [/INST]",
        ),
        (
            "mistral-v3",
            "[INST] Be brief.\n\nHello[/INST] Hi there</s>[INST] Who are you?[/INST]",
        ),
        (
            "mistral-v3-tekken",
            "[INST]Be brief.\n\nHello[/INST]  Hi there  </s>[INST]Who are you?[/INST]",
        ),
        (
            "mistral-v7",
            "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] Hello[/INST]   Hi there  </s>[INST] Who are you?[/INST]",
        ),
        (
            "monarch",
            "system\nBe brief.</s>\n<s>user\nHello</s>\n<s>assistant\n  Hi there  </s>\n<s>user\nWho are you?</s>\n<s>assistant\n",
        ),
        (
            "openchat",
            "Be brief.<|end_of_turn|>GPT4 Correct User: Hello<|end_of_turn|>GPT4 Correct Assistant:   Hi there  <|end_of_turn|>GPT4 Correct User: Who are you?<|end_of_turn|>GPT4 Correct Assistant:",
        ),
        (
            "orion",
            "Human: Be brief.\n\nHello\n\nAssistant: </s>  Hi there  </s>Human: Who are you?\n\nAssistant: </s>",
        ),
        (
            "phi3",
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n  Hi there  <|end|>\n<|user|>\nWho are you?<|end|>\n<|assistant|>\n",
        ),
        (
            "rwkv-world",
            "Be brief.\n\nUser: Hello\n\nAssistant:  Hi there  \n\nUser: Who are you?\n\nAssistant:",
        ),
        (
            "vicuna",
            "Be brief.\n\nUSER: Hello\nASSISTANT:   Hi there  </s>\nUSER: Who are you?\nASSISTANT:",
        ),
        (
            "vicuna-orca",
            "SYSTEM: Be brief.\nUSER: Hello\nASSISTANT:   Hi there  </s>\nUSER: Who are you?\nASSISTANT:",
        ),
        (
            "zephyr",
            "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nHello<|endoftext|>\n<|assistant|>\n  Hi there  <|endoftext|>\n<|user|>\nWho are you?<|endoftext|>\n<|assistant|>\n",
        ),
    ]);
    assert!(predefined_names().eq(expected.keys().copied()));
    for (name, text) in expected {
        assert_eq!(render(name), text, "{name}");
    }
}

#[test]
fn an_unknown_name_has_no_template() {
    assert_eq!(predefined("no such model"), None);
}
