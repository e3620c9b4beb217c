Feature: Overload protection
  Requests beyond the server's capacity are rejected with a time to retry; running requests are not affected.

  Scenario: a request beyond the full queue gets 429 with retry-after
    Given four endless streams
    When one request more than the queue holds arrives
    Then the status is 429
    And the header "retry-after" is "1"
    And the response's "error.type" is "rate_limit_error"
    When the clients of all streams disconnect
    Then all slots become idle

  Scenario: 64 clients that retry are all served by eight slots and a queue of 16
    Given a server whose KV cache holds one context
    When sixty-four clients send requests at once and retry when rejected
    Then all clients get a response in the end
    And some requests were rejected, all with status 429

  Scenario: request_timeout ends a non-streaming request with 408
    When I request a completion:
      """
      {"prompt": "Once upon a time", "ignore_eos": true, "request_timeout": 0.2}
      """
    Then the status is 408
    And the response's "error.type" is "timeout_error"
    And the error message contains "0.2 seconds"
    And all slots become idle

  Scenario: request_timeout ends a stream with an error event
    When I stream a completion:
      """
      {"prompt": "Once upon a time", "ignore_eos": true, "request_timeout": 0.5}
      """
    Then the status is 200
    And the last event's "error.code" is 408

  Scenario: --request-timeout caps a request's request_timeout
    Given a server with a request timeout of 0.2 seconds
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Tell a story."}], "ignore_eos": true, "request_timeout": 100}
      """
    Then the status is 408
    And the error message contains "0.2 seconds"

  Scenario: a response with several completions includes the settings once and each prompt once
    When I request a completion:
      """
      {"prompt": ["a", "b"], "n_predict": 1, "n_cmpl": 2, "logit_bias": [["bird", 1]]}
      """
    Then the status is 200
    And the response's "0.generation_settings.n_predict" is 1
    And the response has no "1.generation_settings"
    And the response has no "1.prompt"
    And the response's "2.prompt" is "b"
    And the response has no "2.generation_settings"

  Scenario: logit_bias with more than 4096 tokens is rejected
    When I request a completion with a logit bias of 1024 texts of 100 words
    Then the status is 400
    And the response's "error.param" is "logit_bias"
    And the error message contains "more than 4096 biased tokens"
