Feature: Chat as with OpenAI's API

  Scenario: The whole answer
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the answer's "object" is "chat.completion"
    And the answer's "choices.0.message.role" is "assistant"
    And the answer's "choices.0.message.content" contains "Rome"
    And the answer's "usage.prompt_tokens" is 36
    And the answer's tokens add up

  Scenario: A stream, with the tokens used
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0, "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the pieces' text contains "Rome"
    And the first piece's "choices.0.delta.role" is "assistant"
    And the first piece's "usage" is null
    And the last piece's "choices" is []
    And the last piece's "usage.prompt_tokens" is 36
    And the stream ends with [DONE]

  Scenario: The limit of tokens is the reason to stop
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_completion_tokens": 3, "temperature": 0}
      """
    Then the answer's "choices.0.finish_reason" is "length"
    And the answer's "usage.completion_tokens" is 3

  Scenario: A stop string is the reason to stop
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Count: 1, 2, 3"}], "max_tokens": 60, "temperature": 0, "stop": " "}
      """
    Then the answer's "choices.0.finish_reason" is "stop"

  Scenario: Content in parts, a system message
    When I chat:
      """
      {"messages": [{"role": "system", "content": "You are terse."},
                    {"role": "user", "content": [{"type": "text", "text": "Name the capital of Italy."}]}],
       "max_tokens": 24, "temperature": 0}
      """
    Then the status is 200
    And the answer's "usage.prompt_tokens" is 25
    And the answer's tokens add up

  Scenario: The seed decides
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 16, "seed": 5}
      """
    Then asking again gives the same text

  Scenario: Several messages to choose from
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 8, "seed": 5, "n": 3, "regex": "[a-z ]{400}"}
      """
    Then the status is 200
    And the answer's "choices.0.index" is 0
    And the answer's "choices.2.index" is 2
    And the answer has no "choices.3"
    And the answer's "usage.completion_tokens" is 24
    And the answer's "usage.prompt_tokens" is 34
    And its choice 1 is what the seed 6 chooses alone

  Scenario: Several messages as they come
    When I stream a chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 8, "seed": 5, "n": 2, "regex": "[a-z ]{400}", "stream_options": {"include_usage": true}}
      """
    Then the status is 200
    And the first piece's "choices.0.delta.role" is "assistant"
    And each of 2 choices has a role, 8 tokens' text and an end
    And the last piece's "usage.completion_tokens" is 16
    And the stream ends with [DONE]

  Scenario: The bias of tokens
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 2, "temperature": 0, "logit_bias": {"7042": 100}}
      """
    Then the answer's "choices.0.message.content" is " Paris Paris"

  Scenario: The assistant's message is gone on with
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}, {"role": "assistant", "content": "The capital of Italy is"}],
       "max_tokens": 3, "temperature": 0}
      """
    Then the answer's "choices.0.message.content" contains "Rome"
    And the answer's "usage.prompt_tokens" is 41

  Scenario Outline: The native option <option> is taken
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 24, "seed": 5, "ignore_eos": true}
      """
    Then the same with {<option>} gives <text> text

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

  Scenario Outline: Any whole number is a seed: <seed>
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 12, "seed": <seed>}
      """
    Then asking again gives the same text

    Examples:
      | seed                 |
      | 4294967296           |
      | -7                   |
      | 9223372036854775807  |

  Scenario: The body is to say that it is JSON
    When I post to "/v1/chat/completions" as "text/plain":
      """
      {"messages": [{"role": "user", "content": "Hi"}]}
      """
    Then the status is 415

  Scenario: What has no effect is reported
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "ada", "prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "24h", "nonsense": {"a": 1}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "user,prompt_cache_options,prompt_cache_retention,nonsense"

  Scenario Outline: Bad input is told by its place: <body>
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
      | {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"one": 1}}               | logit_bias         |
      | {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"70000": 1}}             |                    |
      | {"messages": [{"role": "user", "content": "a"}], "mirostat": 3}                          | mirostat           |
      | {"messages": [{"role": "user", "content": "a"}], "store": true}                          | store              |
      | {"messages": [{"role": "user", "content": "a"}], "moderation": {"model": "omni"}}        | moderation         |
      | {"messages": [{"role": "user", "content": "a"}], "max_tokens": 0}                        | max_tokens         |
      | {"messages": [{"role": "user", "content": "a"}], "stop": ["a", "b", "c", "d", "e"]}      | stop               |
      | {"messages": [{"role": "user", "content": "a"}], "stream": "yes"}                        | stream             |
      | {"messages": [{"role": "user", "content": "a"}], "presence_penalty": 3}                  | presence_penalty   |
      | {"messages": [{"role": "user", "content": 1}]}                                           | messages.0.content |
      | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]} | messages.0.content.0.type |
      | {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]} | messages.0.content.1.text |
