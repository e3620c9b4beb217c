Feature: Base model
  Gemma 3 270M: a SentencePiece vocabulary, sliding-window layers, no instruction tuning, and no chat template.

  Background:
    Given a server with a base model

  Scenario: tokens_evaluated counts the BOS token
    When I request a completion:
      """
      {"prompt": "Roses are red, violets are", "n_predict": 8, "temperature": 0, "repeat_penalty": 1}
      """
    Then the status is 200
    And the response's "content" contains " blue"
    And the response's "tokens_evaluated" is 8
    And streaming the same request gives the same text
    And repeating the request with the prompt cache gives the same text

  Scenario: sixteen concurrent completions equal the same completions run alone
    Given sixteen prompts
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone

  Scenario: a prompt longer than the attention window is completed
    When I request a completion of a prompt of 700 words with:
      """
      {"n_predict": 8, "temperature": 0, "ignore_eos": true}
      """
    Then the status is 200
    And the response's "tokens_predicted" is 8
    And repeating the request with the prompt cache gives the same text

  Scenario: an emoji and a control character are tokenized and detokenized
    When I tokenize:
      """
      {"content": "Hello 🐦\u0001 world", "add_special": true}
      """
    Then the response's "tokens" is [2, 9259, 236743, 247279, 249732, 1902]
    When I detokenize:
      """
      {"tokens": [9259, 236743, 249732, 1902]}
      """
    Then the response's "content" is "Hello \u0001 world"

  Scenario: a completion follows json_schema
    When I request a completion:
      """
      {"prompt": "A small bird, as JSON:\n", "n_predict": 64, "temperature": 0,
        "json_schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
          "songs": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["name", "songs"],
          "additionalProperties": false}}
      """
    Then the status is 200
    And the response's "stopped_eos" is true
    And the response's "content" is JSON that validates against:
      """
      {"type": "object", "properties": {"name": {"maxLength": 20}, "songs": {"maximum": 9}}, "required": ["name", "songs"],
        "additionalProperties": false}
      """

  Scenario: chat completions use ChatML if the model has no chat template
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the response's "usage.completion_tokens" is 4
