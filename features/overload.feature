Feature: More than fits
  Who cannot be served now is told so, and when to come back; nobody who is being served suffers.

  Scenario: A queue that is full says so
    Given four endless streams
    When one request more than may wait arrives
    Then the status is 429
    And the header "retry-after" is "1"
    And the answer's "error.type" is "rate_limit_error"
    When all streams are left
    Then all slots become idle

  Scenario: Sixty-four clients at eight slots and sixteen places
    Given a server whose cache has room for one context
    When sixty-four clients ask at once, and those that are refused ask again
    Then all are answered in the end
    And some were refused, all of them with 429

  Scenario: A request may say how long it can wait
    When I ask for a completion:
      """
      {"prompt": "Once upon a time", "ignore_eos": true, "request_timeout": 0.2}
      """
    Then the status is 408
    And the answer's "error.type" is "timeout_error"
    And the error says "0.2 seconds"
    And all slots become idle

  Scenario: A stream that takes too long ends with an error
    When I stream a completion:
      """
      {"prompt": "Once upon a time", "ignore_eos": true, "request_timeout": 0.5}
      """
    Then the status is 200
    And the last piece's "error.code" is 408

  Scenario: The operator says how long a request may take
    Given a server on which a request may take 0.2 seconds
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "ignore_eos": true, "request_timeout": 100}
      """
    Then the status is 408
    And the error says "0.2 seconds"

  Scenario: Several answers repeat their settings and their prompt once
    When I ask for a completion:
      """
      {"prompt": ["a", "b"], "n_predict": 1, "n_cmpl": 2, "logit_bias": [["bird", 1]]}
      """
    Then the status is 200
    And the answer's "0.generation_settings.n_predict" is 1
    And the answer has no "1.generation_settings"
    And the answer has no "1.prompt"
    And the answer's "2.prompt" is "b"
    And the answer has no "2.generation_settings"

  Scenario: A bias of texts that become too many tokens is refused
    When I ask for a completion with a bias of 1024 texts of 100 words
    Then the status is 400
    And the answer's "error.param" is "logit_bias"
    And the error says "more than 4096 tokens"
