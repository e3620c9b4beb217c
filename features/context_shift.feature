Feature: Context shift
  A full context drops the older half of its tokens, except the n_keep first ones; the rest is recomputed.

  Background:
    Given a server with contexts of 64 tokens

  Scenario: generation continues beyond the context size
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 150, "temperature": 0, "ignore_eos": true, "n_keep": 4}
      """
    Then the response's "tokens_predicted" is 150
    And the response's "truncated" is true
    And the response's "stopped_limit" is true
    And the response's "generation_settings.n_keep" is 4
    And streaming the same request gives the same text
    And repeating the request with the prompt cache gives the same text

  Scenario: truncated is false if the text fits in the context
    When I request a completion:
      """
      {"prompt": "Once upon a time", "n_predict": 20, "temperature": 0, "n_keep": -1}
      """
    Then the response's "truncated" is false
    And the response's "generation_settings.n_keep" is -1

  Scenario: /completion truncates a prompt longer than the context
    When I request a completion of a prompt of 200 words
    Then the status is 200
    And the response's "truncated" is true
    And the response's "tokens_evaluated" is 41

  Scenario: n_keep changes the text after a context shift
    When I request a completion:
      """
      {"prompt": "A list of birds:\n1. Robin\n2. Ortolan\n3. Wren\n4.", "n_predict": 120, "temperature": 1.5, "seed": 7, "ignore_eos": true, "n_keep": 0}
      """
    Then keeping the whole prompt gives another text

  Scenario: generation stops at the context size with --no-context-shift
    Given a server with context shift disabled
    When I request a completion:
      """
      {"prompt": "The capital of France is", "temperature": 0, "ignore_eos": true}
      """
    Then the response's "stopped_limit" is true
    And the response's "truncated" is true
    And the response's "tokens_predicted" is 59

  Scenario: a prompt longer than the context is rejected with --no-context-shift
    Given a server with context shift disabled
    When I request a completion of a prompt of 200 words
    Then the status is 400
    And the response's "error.type" is "exceed_context_size_error"
    And the response's "error.n_prompt_tokens" is 201
    And the response's "error.n_ctx" is 64

  Scenario: a chat completion stops at the context size
    When I request a chat completion:
      """
      {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to a thousand."}], "temperature": 0, "ignore_eos": true}
      """
    Then the response's "choices.0.finish_reason" is "length"
    And the response's "usage.total_tokens" is 64

  Scenario: a chat completion rejects a conversation longer than the context
    When I request a chat completion with a message of 100 words
    Then the status is 400
    And the response's "error.type" is "exceed_context_size_error"
    And the response's "error.n_ctx" is 64
