Feature: Tokenization and chat templates

  Scenario: /tokenize returns the token ids of a text
    When I tokenize:
      """
      {"content": "Hello world"}
      """
    Then the status is 200
    And the response's "tokens" is [19556, 905]

  Scenario: /tokenize parses special tokens unless parse_special is false
    When I tokenize:
      """
      {"content": "<|im_end|>"}
      """
    Then the response's "tokens" is [2]
    When I post to "/tokenize" as "application/json":
      """
      {"content": "<|im_end|>", "parse_special": false}
      """
    Then the response's "tokens" is not [2]

  Scenario: recorded texts are tokenized and detokenized as recorded
    Then all recorded texts are tokenized and detokenized as recorded

  Scenario Outline: missing or empty input returns an empty result: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 200
    And the response's "<field>" is <expected>

    Examples:
      | path        | body              | field   | expected |
      | /tokenize   | {}                | tokens  | []      |
      | /tokenize   | {"content": null} | tokens  | []      |
      | /detokenize | {}                | content | ""      |
      | /detokenize | {"tokens": []}    | content | ""      |

  Scenario: /tokenize accepts an array of texts and token ids
    When I post to "/tokenize" as "application/json":
      """
      {"content": ["Hello", 7, " world"]}
      """
    Then the response's "tokens" is [19556, 7, 905]

  Scenario: /tokenize returns no tokens for an empty text
    When I tokenize:
      """
      {"content": ""}
      """
    Then the response's "tokens" is []

  Scenario: /detokenize rejects an unknown token id
    When I detokenize:
      """
      {"tokens": [1, 999999]}
      """
    Then the status is 400
    And the error message contains "token 999999"

  Scenario: with_pieces returns the text of each token
    When I tokenize:
      """
      {"content": "Hello 🐦", "with_pieces": true}
      """
    Then the response's "tokens.0.id" is 19556
    And the response's "tokens.0.piece" is "Hello"
    And the response's "tokens.1.piece" is [32, 240, 159]

  Scenario: add_special adds no BOS token when the model has none
    When I tokenize:
      """
      {"content": "Hello", "add_special": true}
      """
    Then the response's "tokens" is [19556]

  Scenario: /apply-template renders a conversation
    When I post to "/apply-template" as "text/plain":
      """
      {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}
      """
    Then the status is 200
    And the response's "prompt" is "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

  Scenario: /apply-template continues a trailing assistant message
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": true}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": true, "add_generation_prompt": false}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"

  Scenario: add_generation_prompt false closes the last message
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "add_generation_prompt": false}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n"
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "add_generation_prompt": false, "continue_final_message": false}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n"

  Scenario: continue_final_message false starts a new assistant message
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}], "continue_final_message": false}
      """
    Then the response's "prompt" is "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel<|im_end|>\n<|im_start|>assistant\n"

  Scenario Outline: continue_final_message is rejected if no message can be continued: <role><fields>
    When I post to "/apply-template" as "application/json":
      """
      {"messages": [{"role": "<role>", "content": "Hi"}], "continue_final_message": true<fields>}
      """
    Then the status is 400
    And the error's param is "continue_final_message"

    Examples:
      | role      | fields                          |
      | user      |                                 |
      | assistant | , "add_generation_prompt": true |

  Scenario: /apply-template rejects an empty conversation
    When I post to "/apply-template" as "application/json":
      """
      {"messages": []}
      """
    Then the status is 400
    And the error's param is "messages"

  Scenario Outline: the error names the invalid field: <body> to <path>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | path        | body                                   | param         | message      |
      | /tokenize   | {"content": 1}                         | content       | not of type  |
      | /tokenize   | {"content": "a", "parse_special": "a"} | parse_special | not of type  |
      | /tokenize   | {"content": "a", "add_special": 1}     | add_special   | not of type  |
      | /tokenize   | {"content": "a", "with_pieces": 1}     | with_pieces   | not of type  |
      | /detokenize | {"tokens": "a"}                        | tokens        | not of type  |
      | /detokenize | {"tokens": [1, 1.5]}                   | tokens.1      | not of type  |
      | /detokenize | {"tokens": [-1]}                       | tokens.0      | minimum of 0 |

  Scenario Outline: a BOS token is added only to a prompt that starts with text: <prompt>
    Given a server whose model adds a BOS token
    When I request a completion:
      """
      {"prompt": <prompt>, "n_predict": 0}
      """
    Then the response's "tokens_evaluated" is <tokens>

    Examples:
      | prompt         | tokens |
      | "abc"          | 4      |
      | ["a", 98, "c"] | 4      |
      | [97, "bc"]     | 3      |
      | [97, 98, 99]   | 3      |

  Scenario: a BOS token at the start of the text is not duplicated
    Given a server whose model adds a BOS token
    When I request a completion:
      """
      {"prompt": "<s>abc", "n_predict": 0}
      """
    Then the response's "tokens_evaluated" is 4

  Scenario: no BOS token is added after a system prompt
    Given a server whose model adds a BOS token
    When I request a completion:
      """
      {"prompt": "abc", "n_predict": 0, "system_prompt": "xy"}
      """
    Then the response's "tokens_evaluated" is 6

  Scenario: /tokenize adds a BOS token only with add_special
    Given a server whose model adds a BOS token
    When I tokenize:
      """
      {"content": "abc"}
      """
    Then the response's "tokens" is [97, 98, 99]
    When I tokenize:
      """
      {"content": "abc", "add_special": true}
      """
    Then the response's "tokens" is [260, 97, 98, 99]
