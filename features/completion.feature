Feature: Continue a prompt
  The native route of 2024.

  Scenario: The whole continuation
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0}
      """
    Then the status is 200
    And the answer's "content" contains "Paris"
    And the answer's "stop" is true
    And the answer's "stopped_limit" is true
    And the answer's "tokens_predicted" is 8
    And the answer's "tokens_evaluated" is 5
    And the answer's "prompt" is "The capital of France is"
    And the answer's "generation_settings.n_predict" is 8
    And the answer's "generation_settings.top_k" is 40
    And the answer's "generation_settings.repeat_penalty" is 1.1
    And the answer's "generation_settings.n_ctx" is 512
    And the answer's "truncated" is false
    And the answer's "model" is "smollm2"
    And the answer's "generation_settings.model" is "smollm2"
    And the answer's "stopped_eos" is false
    And the answer's "stopped_word" is false
    And the answer's "stopping_word" is ""
    And the answer's "tokens_cached" is 0
    And the answer's "timings.prompt_n" is 5
    And the answer's "timings.predicted_n" is 8

  Scenario: A stream has the same text
    When I stream a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0}
      """
    Then the status is 200
    And the pieces' text contains "Paris"
    And every piece but the last has only content and stop
    And the last piece's "stopped_limit" is true
    And the last piece's "tokens_predicted" is 8
    And asking for the whole of it gives the same text

  Scenario: The same seed gives the same text, another seed another one
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 24, "seed": 7, "temperature": 1.5}
      """
    Then asking again gives the same text
    And asking again with the seed 8 gives another text

  Scenario: A stop string ends the text and is no part of it
    When I ask for a completion:
      """
      {"prompt": "1, 2, 3, 4, 5,", "n_predict": 40, "temperature": 0, "repeat_penalty": 1, "stop": [", 9", "never"]}
      """
    Then the answer's "content" is " 6, 7, 8"
    And the answer's "stopped_word" is true
    And the answer's "stopping_word" is ", 9"
    And asking for it as a stream gives the same text

  Scenario: Nothing is generated, the prompt is evaluated
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 0}
      """
    Then the status is 200
    And the answer's "content" is ""
    And the answer's "tokens_predicted" is 0
    And the answer's "tokens_evaluated" is 5
    And the answer's "stopped_limit" is true

  Scenario: A character that has begun is finished
    When I ask for a completion:
      """
      {"prompt": "Thumbs up: ", "n_predict": 1, "temperature": 0, "grammar": "root ::= \"👍\" [a-z]+"}
      """
    Then the answer's "content" is "👍"
    And the answer's "stopped_limit" is true
    And asking for it as a stream gives the same text

  Scenario: The operator limits what a request may generate
    Given a server that generates at most 3 tokens
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 10, "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "tokens_predicted" is 3
    And the answer's "stopped_limit" is true
    And the answer's "generation_settings.n_predict" is 3
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 2, "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "tokens_predicted" is 2
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 10, "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "choices.0.finish_reason" is "length"
    And the answer's "usage.completion_tokens" is 3
    When I ask for the props
    Then the answer's "default_generation_settings.n_predict" is 3

  Scenario: A prompt of text and ids
    When I ask for a completion:
      """
      {"prompt": ["The capital of", 4649, " is"], "n_predict": 4, "temperature": 0}
      """
    Then the answer's "content" contains "Paris"
    And the answer's "tokens_evaluated" is 5

  Scenario: Several prompts have an answer each, each its own
    When I ask for a completion:
      """
      {"prompt": ["The capital of France is", [504, 3575, 282, 4649, 314], ["1, 2, 3, 4, 5,"]], "n_predict": 5, "temperature": 0}
      """
    Then the status is 200
    And the answer has 3 entries
    And the answer's "0.content" contains "Paris"
    And the answer's "0.prompt" is "The capital of France is"
    And the answer's "0.index" is 0
    And the answer's "1.prompt" is [504, 3575, 282, 4649, 314]
    And the answer's "1.content" is that of "0"
    And the answer's "2.content" contains "6, 7"
    And the answer's "2.index" is 2
    And asking for it as a stream gives the same texts

  Scenario: Several prompts of which one cannot be
    When I ask for a completion:
      """
      {"prompt": ["Hello", [70000]], "n_predict": 5}
      """
    Then the status is 400
    And the error says "token 70000"

  Scenario: An array of one prompt is one prompt
    When I ask for a completion:
      """
      {"prompt": ["The capital of France is"], "n_predict": 4, "temperature": 0}
      """
    Then the answer's "content" contains "Paris"
    And the answer's "index" is 0

  Scenario Outline: The path <path> is another name
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 200
    And the answer's "<value>" is <is>

    Examples:
      | path              | body                                                                   | value                   | is |
      | /completions      | {"prompt": "Hello", "n_predict": 3}                                    | tokens_predicted        | 3  |
      | /chat/completions | {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}  | usage.completion_tokens | 3  |
      | /responses        | {"input": "Hello", "max_output_tokens": 3}                             | usage.output_tokens     | 3  |

  Scenario: Another name is as strict
    When I post to "/completions" as "application/json":
      """
      {"prompt": "a", "n_predict": -3}
      """
    Then the status is 400
    And the error's param is "n_predict"

  Scenario: A model that ends its text itself
    When I ask for a completion:
      """
      {"prompt": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nName the capital of Italy.<|im_end|>\n<|im_start|>assistant\n", "repeat_penalty": 1, "n_predict": 60, "temperature": 0}
      """
    Then the answer's "stopped_eos" is true
    And the answer's "stopped_limit" is false

  Scenario: The end tokens can be ignored
    When I ask for a completion:
      """
      {"prompt": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nName the capital of Italy.<|im_end|>\n<|im_start|>assistant\n", "repeat_penalty": 1, "n_predict": 60, "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "stopped_eos" is false
    And the answer's "tokens_predicted" is 60

  Scenario: Clients of 2024 do not say that they send JSON
    When I post to "/completion" as "text/plain":
      """
      {"prompt": "Hello", "n_predict": 1}
      """
    Then the status is 200

  Scenario: A field that nobody knows is reported
    When I post to "/completion" as "application/json":
      """
      {"prompt": "Hello", "n_predict": 1, "n_pred": 2}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "n_pred"

  Scenario Outline: Bad input is told by its place: <body>
    When I post to "/completion" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

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
      | {"prompt": ["a", 7, [8]]}                       | prompt      | has no prompts in it         |
      | {"prompt": []}                                  | prompt      | less than 1 item             |
      | {"prompt": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u"]} | prompt | 21 prompts are more than the 20 |
      | {"prompt": "a", "id_slot": 9}                   | id_slot     | there is no slot 9           |
      | {"prompt": [1, 70000]}                          |             | token 70000                  |
      | {"prompt": {"text": "a"}}                       | prompt.prompt_string | required            |
      | {"prompt": 1}                                   | prompt      | not of type                  |
      | {"prompt": "a", "stop": 1}                      | stop        | not of type                  |
      | {"prompt": "a", "stop": ["b", 1]}               | stop.1      | not of type                  |
      | {"prompt": "a", "stream": "yes"}                | stream      | not of type                  |
      | {"prompt": "a", "ignore_eos": 1}                | ignore_eos  | not of type                  |
      | {"prompt": "a", "image_data": [{"data": "", "id": 12}]} | image_data | not built yet         |
      | {"prompt": [1.5]}                               | prompt.0    | not of type                  |

  Scenario: What today's clients read of an answer
    When I post to "/completion" as "application/json":
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 4, "temperature": 0, "return_tokens": true}
      """
    Then the answer's "tokens" has 4 entries
    And the answer's "stop_type" is "limit"
    And the answer's "has_new_line" is false
    And the answer's "index" is 0
    And the answer's "timings.cache_n" is 0
    And the answer's "generation_settings.seed_cur" is that of the field "generation_settings.seed"
    When I post to "/completion" as "application/json":
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 9, "temperature": 0, "stop": "6"}
      """
    Then the answer's "tokens" is []
    And the answer's "stop_type" is "word"
    And the answer's "stopping_word" is "6"
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "grammar": "root ::= \"b\\n\""}
      """
    Then the answer's "stop_type" is "eos"
    And the answer's "has_new_line" is true

  Scenario: The ids of a stream's tokens
    When I stream a completion:
      """
      {"prompt": "1, 2, 3, 4,", "n_predict": 4, "temperature": 0, "return_tokens": true}
      """
    Then the pieces' "tokens" have 4 entries together
    And the last piece's "tokens" is []

  Scenario Outline: An answer of the fields that are wanted
    When I post to "/completion" as "application/json":
      """
      {"prompt": <prompt>, "n_predict": 2, "temperature": 0, "response_fields": ["content", "generation_settings/n_predict", "timings/predicted_n", "nothing"]}
      """
    Then the status is 200
    And the answer's "<first>content" contains "Paris"
    And the answer's "<first>n_predict" is 2
    And the answer's "<first>predicted_n" is 2
    And the answer has no "<first>stop"

    Examples:
      | prompt                                                     | first |
      | "The capital of France is"                                 |       |
      | ["The capital of France is", "The capital of France is"]   | 0.    |

  Scenario: The last piece of the fields that are wanted
    When I stream a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "response_fields": ["stop", "timings/cache_n"]}
      """
    Then the last piece is {"stop": true, "cache_n": 0}

  Scenario: Several continuations of each prompt
    When I post to "/completion" as "application/json":
      """
      {"prompt": ["a", "b"], "n_predict": 2, "seed": 5, "n_cmpl": 2}
      """
    Then the status is 200
    And the answer has 4 entries
    And the answer's "0.prompt" is "a"
    And the answer's "0.generation_settings.seed" is 5
    And the answer's "2.prompt" is "b"
    And the answer's "3.index" is 3

  Scenario: Progress and timings of a stream
    Given a server whose model fills gaps
    When I stream a completion:
      """
      {"prompt": "0123456789", "n_predict": 3, "regex": "[abc]{9}", "return_progress": true, "timings_per_token": true}
      """
    Then the first piece's "prompt_progress.total" is 10
    And the first piece's "prompt_progress.processed" is 10
    And the first piece's "content" is ""
    And the second piece's "timings.prompt_n" is 10
    And the last piece's "timings.predicted_n" is 3

  Scenario Outline: Other forms of a field: <fields>
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 2, "temperature": 0}
      """
    Then the same with <fields> gives the same text

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

  Scenario Outline: A token is forced by its id or its text: <bias>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "temperature": 0, "logit_bias": <bias>}
      """
    Then the answer's "content" is " France"

    Examples:
      | bias               |
      | [[4649, 100]]      |
      | [[" France", 100]] |
      | {"4649": 100}      |
      | {" France": 100}   |

  Scenario Outline: What is off changes nothing and is not reported: <fields>
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

  Scenario: What cannot change the text is reported
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "t_max_prompt_ms": 500, "n_cache_reuse": 1, "speculative.n_max": 4}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "t_max_prompt_ms,n_cache_reuse,speculative.n_max"

  Scenario Outline: What cannot be had is refused: <field>
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

  Scenario: A line that is indented too little is not written
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 20, "n_indent": 2, "grammar": "root ::= \"a\\n  b\\n c\""}
      """
    Then the answer's "content" is "a\n  b\n "
    And the answer's "stop_type" is "limit"

  Scenario: A line break after the time is the last
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 200, "t_max_predict_ms": 1, "regex": "([a-z]{4}\\n){400}"}
      """
    Then the answer's "stop_type" is "limit"
    And the answer's "has_new_line" is true
    And fewer than 200 tokens were generated
