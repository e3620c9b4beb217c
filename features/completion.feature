Feature: Native completion API
  The route /completion of llama.cpp's server of 2024, with later extensions.

  Scenario: a non-streaming response has the text, token counts, and settings
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0}
      """
    Then the status is 200
    And the response's "content" contains "Paris"
    And the response's "stop" is true
    And the response's "stopped_limit" is true
    And the response's "tokens_predicted" is 8
    And the response's "tokens_evaluated" is 5
    And the response's "prompt" is "The capital of France is"
    And the response's "generation_settings.n_predict" is 8
    And the response's "generation_settings.top_k" is 40
    And the response's "generation_settings.repeat_penalty" is 1.1
    And the response's "generation_settings.n_ctx" is 512
    And the response's "truncated" is false
    And the response's "model" is "smollm2"
    And the response's "generation_settings.model" is "smollm2"
    And the response's "stopped_eos" is false
    And the response's "stopped_word" is false
    And the response's "stopping_word" is ""
    And the response's "tokens_cached" is 0
    And the response's "timings.prompt_n" is 5
    And the response's "timings.predicted_n" is 8

  Scenario: a stream has the same text as a non-streaming response
    When I stream a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0}
      """
    Then the status is 200
    And the streamed text contains "Paris"
    And every event but the last has only content and stop
    And the last event's "stopped_limit" is true
    And the last event's "tokens_predicted" is 8
    And the same request without streaming gives the same text

  Scenario: the seed determines the text
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 24, "seed": 7, "temperature": 1.5}
      """
    Then repeating the request gives the same text
    And repeating the request with the seed 8 gives another text

  Scenario: a stop string ends the text and is not included
    When I request a completion:
      """
      {"prompt": "1, 2, 3, 4, 5,", "n_predict": 40, "temperature": 0, "repeat_penalty": 1, "stop": [", 9", "never"]}
      """
    Then the response's "content" is " 6, 7, 8"
    And the response's "stopped_word" is true
    And the response's "stopping_word" is ", 9"
    And streaming the same request gives the same text

  Scenario: n_predict 0 evaluates the prompt and generates nothing
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 0}
      """
    Then the status is 200
    And the response's "content" is ""
    And the response's "tokens_predicted" is 0
    And the response's "tokens_evaluated" is 5
    And the response's "stopped_limit" is true

  Scenario: generation exceeds n_predict to complete a UTF-8 character
    When I request a completion:
      """
      {"prompt": "Thumbs up: ", "n_predict": 1, "temperature": 0, "grammar": "root ::= \"👍\" [a-z]+"}
      """
    Then the response's "content" is "👍"
    And the response's "stopped_limit" is true
    And streaming the same request gives the same text

  Scenario: --n-predict limits the generated tokens of every request
    Given a server that generates at most 3 tokens
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 10, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "tokens_predicted" is 3
    And the response's "stopped_limit" is true
    And the response's "generation_settings.n_predict" is 3
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 2, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "tokens_predicted" is 2
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 10, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "choices.0.finish_reason" is "length"
    And the response's "usage.completion_tokens" is 3
    When I request the props
    Then the response's "default_generation_settings.n_predict" is 3

  Scenario: prompt accepts an array of texts and token ids
    When I request a completion:
      """
      {"prompt": ["The capital of", 4649, " is"], "n_predict": 4, "temperature": 0}
      """
    Then the response's "content" contains "Paris"
    And the response's "tokens_evaluated" is 5

  Scenario: an array of prompts returns one result per prompt
    When I request a completion:
      """
      {"prompt": ["The capital of France is", [504, 3575, 282, 4649, 314], ["1, 2, 3, 4, 5,"]], "n_predict": 5, "temperature": 0}
      """
    Then the status is 200
    And the response has 3 entries
    And the response's "0.content" contains "Paris"
    And the response's "0.prompt" is "The capital of France is"
    And the response's "0.index" is 0
    And the response's "1.prompt" is [504, 3575, 282, 4649, 314]
    And the response's "1.content" equals that of entry "0"
    And the response's "2.content" contains "6, 7"
    And the response's "2.index" is 2
    And streaming the same request gives the same texts

  Scenario: one invalid prompt in an array rejects the whole request
    When I request a completion:
      """
      {"prompt": ["Hello", [70000]], "n_predict": 5}
      """
    Then the status is 400
    And the error message contains "token 70000"

  Scenario: an array of one prompt returns a single object
    When I request a completion:
      """
      {"prompt": ["The capital of France is"], "n_predict": 4, "temperature": 0}
      """
    Then the response's "content" contains "Paris"
    And the response's "index" is 0

  Scenario Outline: <path> is an alias
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 200
    And the response's "<value>" is <expected>

    Examples:
      | path              | body                                                                                    | value                   | expected |
      | /completions      | {"prompt": "Hello", "n_predict": 3, "temperature": 0}                                   | tokens_predicted        | 3        |
      | /chat/completions | {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0} | usage.completion_tokens | 3        |
      | /responses        | {"input": "Hello", "max_output_tokens": 3, "temperature": 0}                            | usage.output_tokens     | 3        |

  Scenario: the alias /completions validates the request body
    When I post to "/completions" as "application/json":
      """
      {"prompt": "a", "n_predict": -3}
      """
    Then the status is 400
    And the error's param is "n_predict"

  Scenario: stopped_eos is true when an end-of-generation token is generated
    When I request a completion:
      """
      {"prompt": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nName the capital of Italy.<|im_end|>\n<|im_start|>assistant\n", "repeat_penalty": 1, "n_predict": 60, "temperature": 0}
      """
    Then the response's "stopped_eos" is true
    And the response's "stopped_limit" is false

  Scenario: ignore_eos generates n_predict tokens
    When I request a completion:
      """
      {"prompt": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nName the capital of Italy.<|im_end|>\n<|im_start|>assistant\n", "repeat_penalty": 1, "n_predict": 60, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "stopped_eos" is false
    And the response's "tokens_predicted" is 60

  Scenario: a request body sent as text/plain is accepted
    When I post to "/completion" as "text/plain":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 200

  Scenario: an unknown request field is listed in x-ortolan-ignored
    When I post to "/completion" as "application/json":
      """
      {"prompt": "Hello", "n_predict": 1, "n_pred": 2}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "n_pred"

  Scenario Outline: the error names the invalid field: <body>
    When I post to "/completion" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | body                                            | param       | message                      |
      | {"n_predict": 1}                                | prompt      | required                     |
      | {"prompt": "a", "n_predict": "many"}            | n_predict   | not of type                  |
      | {"prompt": "a", "n_predict": -3}                | n_predict   | less than the minimum of -2  |
      | {"prompt": "a", "top_p": 2}                     | top_p       | maximum of 1                 |
      | {"prompt": "a", "n_keep": -2}                   | n_keep      | less than the minimum of -1  |
      | {"prompt": "a", "priority": 0.5}                | priority    | not of type                  |
      | {"prompt": "a", "cache_prompt": "yes"}          | cache_prompt | not of type                 |
      | {"prompt": "a", "request_timeout": 0}           | request_timeout | minimum of 0.001           |
      | {"prompt": ["a", 7, [8]]}                       | prompt      | cannot contain prompts       |
      | {"prompt": []}                                  | prompt      | less than 1 item             |
      | {"prompt": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u"]} | prompt | 21 prompts are more than the 20 |
      | {"prompt": "a", "id_slot": 9}                   | id_slot     | slot not found: 9            |
      | {"prompt": [1, 70000]}                          |             | token 70000                  |
      | {"prompt": {"text": "a"}}                       | prompt.prompt_string | required            |
      | {"prompt": 1}                                   | prompt      | not of type                  |
      | {"prompt": "a", "stop": 1}                      | stop        | not of type                  |
      | {"prompt": "a", "stop": ["b", 1]}               | stop.1      | not of type                  |
      | {"prompt": "a", "stream": "yes"}                | stream      | not of type                  |
      | {"prompt": "a", "ignore_eos": 1}                | ignore_eos  | not of type                  |
      | {"prompt": "a", "image_data": [{"data": "", "id": 12}]} | image_data | not supported yet     |
      | {"prompt": [1.5]}                               | prompt.0    | not of type                  |

  Scenario: a response has the fields of current llama.cpp servers
    When I post to "/completion" as "application/json":
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 4, "temperature": 0, "return_tokens": true}
      """
    Then the response's "tokens" has 4 entries
    And the response's "stop_type" is "limit"
    And the response's "has_new_line" is false
    And the response's "index" is 0
    And the response's "timings.cache_n" is 0
    And the response's "generation_settings.seed_cur" equals its "generation_settings.seed"
    When I post to "/completion" as "application/json":
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 9, "temperature": 0, "stop": "6"}
      """
    Then the response's "tokens" is []
    And the response's "stop_type" is "word"
    And the response's "stopping_word" is "6"
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "grammar": "root ::= \"b\\n\""}
      """
    Then the response's "stop_type" is "eos"
    And the response's "has_new_line" is true

  Scenario: a stream with return_tokens has the token ids
    When I stream a completion:
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 4, "temperature": 0, "return_tokens": true}
      """
    Then the events' "tokens" have 4 entries in total
    And the last event's "tokens" is []

  Scenario Outline: response_fields selects the fields of the response: <prompt>
    When I post to "/completion" as "application/json":
      """
      {"prompt": <prompt>, "n_predict": 2, "temperature": 0, "response_fields": ["content", "generation_settings/n_predict", "timings/predicted_n", "nothing"]}
      """
    Then the status is 200
    And the response's "<prefix>content" contains "Paris"
    And the response's "<prefix>n_predict" is 2
    And the response's "<prefix>predicted_n" is 2
    And the response has no "<prefix>stop"

    Examples:
      | prompt                                                     | prefix |
      | "The capital of France is"                                 |       |
      | ["The capital of France is", "The capital of France is"]   | 0.    |

  Scenario: response_fields selects the fields of the last stream event
    When I stream a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "response_fields": ["stop", "timings/cache_n"]}
      """
    Then the last event is {"stop": true, "cache_n": 0}

  Scenario: n_cmpl returns several completions of each prompt
    When I post to "/completion" as "application/json":
      """
      {"prompt": ["a", "b"], "n_predict": 2, "seed": 5, "n_cmpl": 2}
      """
    Then the status is 200
    And the response has 4 entries
    And the response's "0.prompt" is "a"
    And the response's "0.generation_settings.seed" is 5
    And the response's "2.prompt" is "b"
    And the response's "3.index" is 3

  Scenario: return_progress and timings_per_token add progress and timings to stream events
    Given a server whose model supports infill
    When I stream a completion:
      """
      {"prompt": "0123456789", "n_predict": 3, "regex": "[abc]{9}", "return_progress": true, "timings_per_token": true}
      """
    Then the first event's "prompt_progress.total" is 10
    And the first event's "prompt_progress.processed" is 10
    And the first event's "content" is ""
    And the second event's "timings.prompt_n" is 10
    And the last event's "timings.predicted_n" is 3

  Scenario Outline: an equivalent form of an option produces the same text: <fields>
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2, "temperature": 0}
      """
    Then the same request with <fields> gives the same text

    Examples:
      | fields                                                        |
      | {"top_k": -1}                                                 |
      | {"prompt": {"prompt_string": "The capital of France is"}}     |
      | {"logit_bias": {}}                                            |
      | {"logit_bias": {"7": -100}}                                   |
      | {"seed": -9223372036854775808}                                |
      | {"seed": 9223372036854775807}                                 |
      | {"samplers": "edkypmxt"}                                      |
      | {"samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]} |
      | {"stop": ["", "xyzzy"]}                                       |
      | {"stop": "xyzzy"}                                             |
      | {"max_tokens": 1}                                             |

  Scenario Outline: logit_bias accepts a token's id or text: <bias>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "temperature": 0, "logit_bias": <bias>}
      """
    Then the response's "content" is " France"

    Examples:
      | bias               |
      | [[4649, 100]]      |
      | [[" France", 100]] |
      | {"4649": 100}      |
      | {" France": 100}   |

  Scenario Outline: an option value that disables the option is not listed in x-ortolan-ignored: <fields>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, <fields>}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is missing

    Examples:
      | fields                                                                    |
      | "n_discard": 0, "n_indent": 0, "t_max_predict_ms": 0                      |
      | "adaptive_target": -1.0, "grammar_lazy": false, "preserved_tokens": []    |
      | "logit_bias": {}, "samplers": "", "response_fields": [], "n": 1           |
      | "mirostat": 0, "repeat_last_n": -1, "dry_penalty_last_n": -1, "n_probs": 0 |
      | "prompt": {"prompt_string": "a", "multimodal_data": []}                   |

  Scenario: options without effect are listed in x-ortolan-ignored
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "t_max_prompt_ms": 500, "n_cache_reuse": 1, "speculative.n_max": 4}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "t_max_prompt_ms,n_cache_reuse,speculative.n_max"

  Scenario Outline: an unsupported or invalid option value is rejected: <field>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "<field>": <value>}
      """
    Then the status is 400
    And the error's param is "<field>"

    Examples:
      | field              | value                    |
      | n_discard          | 5                        |
      | adaptive_target    | 0.5                      |
      | grammar_lazy       | true                     |
      | grammar_triggers   | [{"type": 1}]            |
      | preserved_tokens   | ["<think>"]              |
      | response_format    | {"type": "json_object"}  |
      | structured_outputs | {"choice": ["a"]}        |
      | guided_regex       | "a"                      |
      | tools              | [{"type": "function"}]   |
      | samplers           | "kz"                     |
      | n_cmpl             | 0                        |
      | seed               | 18446744073709551616     |
      | n_indent           | -1                       |

  Scenario: n_indent stops generation before a line with less indentation
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 20, "n_indent": 2, "grammar": "root ::= \"a\\n  b\\n c\""}
      """
    Then the response's "content" is "a\n  b\n "
    And the response's "stop_type" is "limit"

  Scenario: t_max_predict_ms stops generation at the first line break after the time limit
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 200, "t_max_predict_ms": 1, "regex": "([a-z]{4}\\n){400}"}
      """
    Then the response's "stop_type" is "limit"
    And the response's "has_new_line" is true
    And fewer than 200 tokens were generated
