Feature: A text that outgrows its context
  The older half goes, but for the beginning that is to be kept; what is left is computed anew.

  Background:
    Given a server with contexts of 64 tokens

  Scenario: The text goes on
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 150, "temperature": 0, "ignore_eos": true, "n_keep": 4}
      """
    Then the answer's "tokens_predicted" is 150
    And the answer's "truncated" is true
    And the answer's "stopped_limit" is true
    And the answer's "generation_settings.n_keep" is 4
    And asking for it as a stream gives the same text
    And asking again from the cache gives the same text

  Scenario: A text that fits is not truncated
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 20, "temperature": 0, "n_keep": -1}
      """
    Then the answer's "truncated" is false
    And the answer's "generation_settings.n_keep" is -1

  Scenario: A prompt that is too long is cut
    When I ask for a completion of a prompt of 200 words
    Then the status is 200
    And the answer's "truncated" is true
    And the answer's "tokens_evaluated" is 41

  Scenario: What is kept decides the text
    When I ask for a completion:
      """
      {"prompt": "A list of birds:\n1. Robin\n2. Ortolan\n3. Wren\n4.", "n_predict": 120, "temperature": 1.5, "seed": 7, "ignore_eos": true, "n_keep": 0}
      """
    Then keeping the whole prompt gives another text

  Scenario: The operator ends texts where their context ends
    Given a server that shifts no context
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "stopped_limit" is true
    And the answer's "truncated" is true
    And the answer's "tokens_predicted" is 59

  Scenario: A prompt that is too long is refused where nothing is cut
    Given a server that shifts no context
    When I ask for a completion of a prompt of 200 words
    Then the status is 400
    And the answer's "error.type" is "exceed_context_size_error"
    And the answer's "error.n_prompt_tokens" is 201
    And the answer's "error.n_ctx" is 64

  Scenario: OpenAI's routes cut nothing
    When I chat:
      """
      {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to a thousand."}], "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "choices.0.finish_reason" is "length"
    And the answer's "usage.total_tokens" is 64

  Scenario: A conversation that is too long is refused
    When I chat about 100 words
    Then the status is 400
    And the answer's "error.type" is "exceed_context_size_error"
    And the answer's "error.n_ctx" is 64
