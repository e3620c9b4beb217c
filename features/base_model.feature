Feature: A model with a SentencePiece vocabulary, local layers, and no chat template
  Gemma 3 270M, which was only taught to go on with texts.

  Background:
    Given a server with a base model

  Scenario: A text is gone on with, the token that begins it told with those evaluated
    When I ask for a completion:
      """
      {"prompt": "Roses are red, violets are", "n_predict": 8, "temperature": 0, "repeat_penalty": 1}
      """
    Then the status is 200
    And the answer's "content" contains " blue"
    And the answer's "tokens_evaluated" is 8
    And asking for it as a stream gives the same text
    And asking again from the cache gives the same text

  Scenario: Many together say what each says alone
    Given sixteen prompts
    When each is continued alone
    And all are continued at once
    Then the texts are the same

  Scenario: A text longer than the window of the local layers
    When I ask for a completion of a prompt of 700 words with:
      """
      {"n_predict": 8, "temperature": 0, "ignore_eos": true}
      """
    Then the status is 200
    And the answer's "tokens_predicted" is 8
    And asking again from the cache gives the same text

  Scenario: Tokens of a text with a bird and a control character, and back
    When I tokenize:
      """
      {"content": "Hello 🐦\u0001 world", "add_special": true}
      """
    Then the answer's "tokens" is [2, 9259, 236743, 247279, 249732, 1902]
    When I detokenize:
      """
      {"tokens": [9259, 236743, 249732, 1902]}
      """
    Then the answer's "content" is "Hello \u0001 world"

  Scenario: What has to follow a schema follows it
    When I ask for a completion:
      """
      {"prompt": "A small bird, as JSON:\n", "n_predict": 64, "temperature": 0,
        "json_schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
          "songs": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["name", "songs"],
          "additionalProperties": false}}
      """
    Then the status is 200
    And the answer's "stopped_eos" is true
    And the answer's "content" is JSON that is valid for:
      """
      {"type": "object", "properties": {"name": {"maxLength": 20}, "songs": {"maximum": 9}}, "required": ["name", "songs"],
        "additionalProperties": false}
      """

  Scenario: A conversation is written as ChatML, for want of a template
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the answer's "usage.completion_tokens" is 4
