Feature: Adapters change what a model says
  LoRA adapters beside one quantised model: each request has its own, in the steps that all share.

  Background:
    Given a server with two adapters, neither of which counts

  Scenario: The adapters are shown
    When I ask for the adapters
    Then the status is 200
    And the answer has 2 entries
    And the answer's "0.id" is 0
    And the answer's "0.path" contains "first.gguf"
    And the answer's "0.scale" is 0
    And the answer's "1.id" is 1

  Scenario: What is set counts for requests that say nothing
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 12, "temperature": 0}
      """
    And I set the adapters:
      """
      [{"id": 1, "scale": 0.5}]
      """
    Then the status is 200
    And the answer's "success" is true
    When I ask for the adapters
    Then the answer's "0.scale" is 0
    And the answer's "1.scale" is 0.5
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 12, "temperature": 0}
      """
    Then the answer's settings are:
      """
      {"lora": [{"id": 1, "scale": 0.5}]}
      """
    And the same with {"lora": [{"id": 1, "scale": 0.5}, {"id": 0, "scale": 0}]} gives the same text
    And the same with {"lora": []} gives another text

  Scenario Outline: A request has its own: <path>
    When I set the adapters:
      """
      [{"id": 0, "scale": 0.5}]
      """
    And I post to "<path>" as "application/json":
      """
      {<body>, "temperature": 0, "lora": [{"id": 7, "scale": 1}]}
      """
    Then the status is 400
    And the error's param is "lora"
    And the error says "there is no adapter 7: the server has 2"

    Examples:
      | path                 | body                                           |
      | /completion          | "prompt": "a"                                  |
      | /v1/chat/completions | "messages": [{"role": "user", "content": "a"}] |
      | /v1/completions      | "prompt": "a"                                  |
      | /v1/responses        | "input": "a"                                   |

  Scenario: A conversation with one adapter and with another
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name a bird."}], "max_tokens": 12, "temperature": 0, "lora": [{"id": 0, "scale": 0.5}]}
      """
    Then the status is 200
    And the same with {"lora": [{"id": 0, "scale": 0.5}]} gives the same text
    And the same with {"lora": [{"id": 1, "scale": 0.5}]} gives another text

  Scenario: Sixteen with different adapters together say what each says alone
    Given sixteen prompts
    And each with adapters of its own
    When each is continued alone
    And all are continued at once
    Then the texts are the same
    When all are continued at once, from the cache
    Then the texts are the same

  Scenario: What was computed with one adapter is not found with another
    When I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "lora": [{"id": 0, "scale": 1}]}
      """
    And I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true, "lora": [{"id": 0, "scale": 1}]}
      """
    Then the answer's "tokens_cached" is 14
    When I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true, "lora": [{"id": 0, "scale": 0.5}]}
      """
    Then the answer's "tokens_cached" is 0
    When I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 0, "cache_salt": "fox", "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 0

  Scenario: A saved slot keeps its adapter
    When I ask for a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom", "n_predict": 0, "id_slot": 0, "lora": [{"id": 1, "scale": 1}]}
      """
    And I save the slot 0 as "adapted.bin"
    And I erase the slot 0
    And I restore the slot 0 as "adapted.bin"
    Then the status is 200
    When I ask for a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom", "n_predict": 0, "cache_prompt": true, "lora": [{"id": 1, "scale": 1}]}
      """
    Then the answer's "tokens_cached" is 19
    Given a server with contexts of 64 tokens
    When I restore the slot 0 as "adapted.bin"
    Then the status is 400
    And the error's param is "filename"
    And the error says "an adapter that is not here"

  Scenario: An embedding is made with what is set
    Then embedding "ortolan" gives another vector while the adapter 0 counts

  Scenario Outline: Bad input is told by its place: <body>
    When I post to "/lora-adapters" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error says "<message>"

    Examples:
      | body                                           | message                                     |
      | {"id": 0, "scale": 1}                          | is not of type                              |
      | [{"id": 2, "scale": 1}]                        | there is no adapter 2: the server has 2     |
      | [{"id": 0, "scale": 1}, {"id": 0, "scale": 2}] | the adapter 0 is named twice                |
      | [{"id": -1, "scale": 1}]                       | 0.id: -1 is less than the minimum of 0      |
      | [{"id": 0}]                                    | 0.scale: it is required                     |
      | [{"id": 0, "scale": 1e9}]                      | is greater than the maximum of 100          |

  Scenario: A server without adapters has none
    Given a server with contexts of 64 tokens
    When I ask for the adapters
    Then the answer has 0 entries
