Feature: LoRA adapters
  Adapters are applied to one quantized model; each request selects its own scales within shared steps.

  Background:
    Given a server with two LoRA adapters, both at scale 0

  Scenario: /lora-adapters lists the adapters with their scales
    When I request the adapters
    Then the status is 200
    And the response has 2 entries
    And the response's "0.id" is 0
    And the response's "0.path" contains "first.gguf"
    And the response's "0.scale" is 0
    And the response's "1.id" is 1

  Scenario: the global scales apply to a request without lora
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 12, "temperature": 0}
      """
    And I set the adapter scales:
      """
      [{"id": 1, "scale": 0.5}]
      """
    Then the status is 200
    And the response's "success" is true
    When I request the adapters
    Then the response's "0.scale" is 0
    And the response's "1.scale" is 0.5
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 12, "temperature": 0}
      """
    Then the response's generation settings are:
      """
      {"lora": [{"id": 1, "scale": 0.5}]}
      """
    And the same request with {"lora": [{"id": 1, "scale": 0.5}, {"id": 0, "scale": 0}]} gives the same text
    And the same request with {"lora": []} gives another text

  Scenario Outline: an unknown adapter id in a request is rejected: <path>
    When I set the adapter scales:
      """
      [{"id": 0, "scale": 0.5}]
      """
    And I post to "<path>" as "application/json":
      """
      {<body>, "temperature": 0, "lora": [{"id": 7, "scale": 1}]}
      """
    Then the status is 400
    And the error's param is "lora"
    And the error message contains "adapter not found: 7 (the server has 2)"

    Examples:
      | path                 | body                                           |
      | /completion          | "prompt": "a"                                  |
      | /v1/chat/completions | "messages": [{"role": "user", "content": "a"}] |
      | /v1/completions      | "prompt": "a"                                  |
      | /v1/responses        | "input": "a"                                   |

  Scenario: chat completions with different adapters produce different texts
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name a bird."}], "max_tokens": 12, "temperature": 0, "lora": [{"id": 0, "scale": 0.5}]}
      """
    Then the status is 200
    And the same request with {"lora": [{"id": 0, "scale": 0.5}]} gives the same text
    And the same request with {"lora": [{"id": 1, "scale": 0.5}]} gives another text

  Scenario: sixteen concurrent completions with different adapters equal the same completions run alone
    Given sixteen prompts
    And each with its own LoRA adapters
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone
    When all prompts are completed concurrently with the prompt cache
    Then the concurrent texts equal the texts completed alone

  Scenario: the prefix cache does not share blocks between adapters
    When I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "lora": [{"id": 0, "scale": 1}]}
      """
    And I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true, "lora": [{"id": 0, "scale": 1}]}
      """
    Then the response's "tokens_cached" is 14
    When I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true, "lora": [{"id": 0, "scale": 0.5}]}
      """
    Then the response's "tokens_cached" is 0
    When I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 0

  Scenario: a saved slot keeps its adapters
    When I request a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom", "n_predict": 0, "id_slot": 0, "lora": [{"id": 1, "scale": 1}]}
      """
    And I save slot 0 as "adapted.bin"
    And I erase slot 0
    And I restore slot 0 from "adapted.bin"
    Then the status is 200
    When I request a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom", "n_predict": 0, "cache_prompt": true, "lora": [{"id": 1, "scale": 1}]}
      """
    Then the response's "tokens_cached" is 19
    Given a server with contexts of 64 tokens
    When I restore slot 0 from "adapted.bin"
    Then the status is 400
    And the error's param is "filename"
    And the error message contains "an adapter that is not loaded"

  Scenario: embeddings use the global adapter scales
    Then embedding "ortolan" gives another vector while adapter 0 has scale 1

  Scenario Outline: /lora-adapters rejects an invalid body: <body>
    When I post to "/lora-adapters" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error message contains "<message>"

    Examples:
      | body                                           | message                                     |
      | {"id": 0, "scale": 1}                          | is not of type                              |
      | [{"id": 2, "scale": 1}]                        | adapter not found: 2 (the server has 2)     |
      | [{"id": 0, "scale": 1}, {"id": 0, "scale": 2}] | adapter 0 occurs more than once             |
      | [{"id": -1, "scale": 1}]                       | 0.id: -1 is less than the minimum of 0      |
      | [{"id": 0}]                                    | 0.scale: it is required                     |
      | [{"id": 0, "scale": 1e9}]                      | is greater than the maximum of 100          |

  Scenario: /lora-adapters returns an empty list without adapters
    Given a server with contexts of 64 tokens
    When I request the adapters
    Then the response has 0 entries
