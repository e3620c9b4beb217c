Feature: OpenAI Chat Completions API

  Scenario: a non-streaming response has a message and token usage
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the response's "object" is "chat.completion"
    And the response's "choices.0.message.role" is "assistant"
    And the response's "choices.0.message.content" contains "Rome"
    And the response's "usage.prompt_tokens" is 36
    And the token counts in usage add up

  Scenario: stream_options.include_usage reports token usage in the last event
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0, "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the streamed text contains "Rome"
    And the first event's "choices.0.delta.role" is "assistant"
    And only the last event has "usage"
    And the last event's "choices" is []
    And the last event's "usage.prompt_tokens" is 36
    And the stream ends with [DONE]

  Scenario: finish_reason is length when max_completion_tokens is reached
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_completion_tokens": 3, "temperature": 0}
      """
    Then the response's "choices.0.finish_reason" is "length"
    And the response's "usage.completion_tokens" is 3

  Scenario: finish_reason is stop when a stop string is generated
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Count: 1, 2, 3"}], "max_tokens": 60, "temperature": 0, "stop": " "}
      """
    Then the response's "choices.0.finish_reason" is "stop"

  Scenario: a system message and an array of content parts are accepted
    When I request a chat completion:
      """
      {"messages": [{"role": "system", "content": "You are terse."},
                    {"role": "user", "content": [{"type": "text", "text": "Name the capital of Italy."}]}],
       "max_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the response's "usage.prompt_tokens" is 25
    And the token counts in usage add up

  Scenario: the same seed produces the same text
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 16, "seed": 5}
      """
    Then repeating the request gives the same text

  Scenario: with n, the choices use consecutive seeds
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 8, "seed": 5, "n": 3, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the response's "choices.0.index" is 0
    And the response's "choices.2.index" is 2
    And the response has no "choices.3"
    And the response's "usage.completion_tokens" is 24
    And the response's "usage.prompt_tokens" is 34
    And choice 1 equals the only choice of a request with the seed 6

  Scenario: with n, each streamed choice has a role and a finish_reason
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 8, "seed": 5, "n": 2, "regex": "[a-z ]{400}", "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the first event's "choices.0.delta.role" is "assistant"
    And each of 2 choices has a role, text events for 8 tokens, and a finish_reason
    And the last event's "usage.completion_tokens" is 16
    And the stream ends with [DONE]

  Scenario: logit_bias 100 forces a token
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 2, "temperature": 0, "logit_bias": {"7042": 100}}
      """
    Then the response's "choices.0.message.content" is " Paris Paris"

  Scenario: a trailing assistant message is continued
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}, {"role": "assistant", "content": "The capital of Italy is"}],
       "max_tokens": 3, "temperature": 0}
      """
    Then the response's "choices.0.message.content" contains "Rome"
    And the response's "usage.prompt_tokens" is 41

  Scenario Outline: a sampling option of /completion is applied: <option>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 24, "seed": 5, "ignore_eos": true}
      """
    Then the same request with {<option>} gives <text> text

    Examples:
      | option                                                 | text    |
      | "mirostat": 2, "mirostat_tau": 1                       | another |
      | "tfs_z": 0.1                                           | another |
      | "typical_p": 0.1                                       | another |
      | "dynatemp_range": 1                                    | another |
      | "top_k": 2                                             | another |
      | "min_p": 0.5                                           | another |
      | "top_n_sigma": 0.5                                     | another |
      | "xtc_probability": 1, "xtc_threshold": 0.01            | another |
      | "dry_multiplier": 0                                    | the same |
      | "repeat_penalty": 3                                    | another |
      | "samplers": ["top_k"], "temperature": 0.1              | the same |
      | "samplers": ["temperature"]                            | the same |
      | "min_keep": 7                                          | the same |

  Scenario Outline: seed accepts any 64-bit integer: <seed>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 12, "seed": <seed>}
      """
    Then repeating the request gives the same text

    Examples:
      | seed                 |
      | 4294967296           |
      | -7                   |
      | 9223372036854775807  |

  Scenario Outline: a neutral field value is accepted and does not change the text: <field>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 6, "temperature": 0}
      """
    Then the same request with {<field>} gives the same text

    Examples:
      | field                                                                        |
      | "top_k": -1                                                                  |
      | "min_p": 0                                                                   |
      | "repetition_penalty": 1, "repeat_penalty": 1                                 |
      | "stop": null                                                                 |
      | "stop": ["", "@@", "@@@", "@@@@", "@@@@@", "@@@@@@"]                         |
      | "tools": [], "tool_choice": "none"                                           |
      | "tools": null, "tool_choice": null                                           |
      | "response_format": null, "guided_regex": "", "guided_choice": null           |
      | "structured_outputs": {"json": null, "json_object": false}                   |
      | "n_keep": 0, "id_slot": -1, "n_probs": 0                                     |
      | "seed": 18446744073709551615                                                 |

  Scenario Outline: a generation option of /completion is accepted: <option>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "temperature": 0, <option>}
      """
    Then the status is 200
    And the response's "usage.completion_tokens" is <tokens>

    Examples:
      | option                                                     | tokens |
      | "n_predict": 3                                             | 3      |
      | "n_predict": 0                                             | 0      |
      | "max_tokens": 2, "n_predict": 3                            | 2      |
      | "n_predict": -1, "max_tokens": 5                           | 5      |
      | "n_predict": 3, "id_slot": 1                               | 3      |
      | "n_predict": 3, "n_keep": -1                               | 3      |

  Scenario: n_probs and the logit_bias forms of /completion are accepted
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "n_predict": 2, "temperature": 0, "n_probs": 3, "logit_bias": [[7042, 100]]}
      """
    Then the response's "choices.0.message.content" is " Paris Paris"
    And the response's "choices.0.logprobs.content" has 2 entries
    And the response's "choices.0.logprobs.content.0.top_logprobs" has 3 entries
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "n_predict": 2, "temperature": 0, "logit_bias": {" Paris": 100}}
      """
    Then the response's "choices.0.message.content" is " Paris Paris"

  Scenario: a refusal in an assistant message is accepted as text
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."},
                    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                    {"role": "user", "content": "Please."},
                    {"role": "assistant", "content": null, "refusal": "No."},
                    {"role": "user", "content": "Please."},
                    {"role": "assistant"},
                    {"role": "user", "content": []}],
       "max_tokens": 1, "store": true}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "store"

  Scenario: a request body that is not application/json gets 415
    When I post to "/v1/chat/completions" as "text/plain":
      """
      {"messages": [{"role": "user", "content": "Hi"}]}
      """
    Then the status is 415

  Scenario: request fields without effect are listed in x-ortolan-ignored
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "ada", "prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "24h", "nonsense": {"a": 1}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "user,prompt_cache_options,prompt_cache_retention,nonsense"

  Scenario Outline: the error names the invalid field: <body>
    When I post to "/v1/chat/completions" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | body                                                                                     | param              |
      | {}                                                                                       | messages           |
      | {"messages": []}                                                                         | messages           |
      | {"messages": [{"role": "nobody", "content": "a"}]}                                       | messages.0.role    |
      | {"messages": [{"role": "user", "content": "a"}], "temperature": 3}                       | temperature        |
      | {"messages": [{"role": "user", "content": "a"}], "n": 0}                                 | n                  |
      | {"messages": [{"role": "user", "content": "a"}], "n": 100}                               | n                  |
      | {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"1": 101}}               | logit_bias.1       |
      | {"messages": [{"role": "user", "content": "a"}], "logit_bias": [[1]]}                    | logit_bias.0       |
      | {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"70000": 1}}             |                    |
      | {"messages": [{"role": "user", "content": "a"}], "mirostat": 3}                          | mirostat           |
      | {"messages": [{"role": "user", "content": "a"}], "moderation": {"model": "omni"}}        | moderation         |
      | {"messages": [{"role": "user", "content": "a"}], "max_tokens": 0}                        | max_tokens         |
      | {"messages": [{"role": "user", "content": "a"}], "stop": 1}                              | stop               |
      | {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 0}             | max_completion_tokens |
      | {"messages": [{"role": "user", "content": "a"}], "max_tokens": -3}                       | max_tokens         |
      | {"messages": [{"role": "user", "content": "a"}], "seed": 18446744073709551616}           | seed               |
      | {"messages": [{"role": "user", "content": "a"}], "repetition_penalty": 2, "repeat_penalty": 3} | repetition_penalty |
      | {"messages": [{"role": "user", "content": "a"}], "best_of": 2}                           | best_of            |
      | {"messages": [{"role": "user", "content": "a"}], "use_beam_search": true}                | use_beam_search    |
      | {"messages": [{"role": "user", "content": "a"}], "min_tokens": 2}                        | min_tokens         |
      | {"messages": [{"role": "user", "content": "a"}], "stop_token_ids": [2]}                  | stop_token_ids     |
      | {"messages": [{"role": "user", "content": "a"}], "include_stop_str_in_output": true}     | include_stop_str_in_output |
      | {"messages": [{"role": "user", "content": "a"}], "skip_special_tokens": false}           | skip_special_tokens |
      | {"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ messages }}"}      | chat_template      |
      | {"messages": [{"role": "user", "content": "a"}], "system_prompt": "b"}                   | system_prompt      |
      | {"messages": [{"role": "user", "content": "a"}], "max_output_tokens": 4}                 | max_output_tokens  |
      | {"messages": [{"role": "user", "content": "a"}], "function_call": {"name": "b"}}         | function_call      |
      | {"messages": [{"role": "user", "content": "a"}], "functions": [{"name": "b"}]}           | functions          |
      | {"messages": [{"role": "user", "content": "a"}], "modalities": ["text", "audio"]}        | modalities         |
      | {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}]}       | messages.0.content.0.type |
      | {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "id": "a", "custom": {}}]}]} | messages.0.tool_calls.0.type |
      | {"messages": [{"role": "user", "content": "a"}], "stream": "yes"}                        | stream             |
      | {"messages": [{"role": "user", "content": "a"}], "presence_penalty": 3}                  | presence_penalty   |
      | {"messages": [{"role": "user", "content": 1}]}                                           | messages.0.content |
      | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]} | messages.0.content.0.type |
      | {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]} | messages.0.content.1.text |

  Scenario Outline: <path> counts the input tokens
    When I post to "<path>" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
      """
    Then the status is 200
    And the response's "object" is "response.input_tokens"
    And the response's "input_tokens" is 31

    Examples:
      | path                              |
      | /v1/chat/completions/input_tokens |
      | /chat/completions/input_tokens    |

  Scenario: timings and prompt_progress have llama.cpp's format
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "timings.predicted_n" is 3
    When I stream a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0, "ignore_eos": true, "timings_per_token": true, "return_progress": true, "cache_prompt": false}
      """
    Then the second event's "prompt_progress.total" is 31
    And the second event's "prompt_progress.cache" is 0
    And the third event's "timings.predicted_n" is 1
    And the last event's "timings.predicted_n" is 3
