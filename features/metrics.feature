Feature: Prometheus metrics
  Prometheus' text format: the eight metrics of llama.cpp of 2024, its later ones, and ortolan's own.

  Scenario: /metrics has llama.cpp's metrics of 2024
    Given a server whose model supports infill
    When I request a completion:
      """
      {"prompt": "0123456789", "n_predict": 5, "ignore_eos": true}
      """
    And I get "/metrics"
    Then the status is 200
    And the header "content-type" is "text/plain; version=0.0.4"
    And the header "process-start-time-unix" is a Unix time within the last 24 hours
    And the metric "llamacpp:prompt_tokens_total" is at least 10
    And the metric "llamacpp:tokens_predicted_total" is at least 5
    And the metric "llamacpp:prompt_tokens_seconds" is at least 1
    And the metric "llamacpp:predicted_tokens_seconds" is at least 1
    And the metric "llamacpp:kv_cache_usage_ratio" is 0
    And the metric "llamacpp:kv_cache_tokens" is 0
    And the metric "llamacpp:requests_processing" is 0
    And the metric "llamacpp:requests_deferred" is 0

  Scenario: /metrics has llama.cpp's later metrics
    Given a server whose model supports infill
    When I request a completion:
      """
      {"prompt": "0123456789", "n_predict": 5, "ignore_eos": true}
      """
    And I get "/metrics"
    Then the metric "llamacpp:prompt_seconds_total" is at least 0.000001
    And the metric "llamacpp:tokens_predicted_seconds_total" is at least 0.000001
    And the metric "llamacpp:n_decode_total" is at least 2
    And the metric "llamacpp:n_busy_slots_per_decode" is at least 1
    And the metric "llamacpp:n_tokens_max" is at least 14
    And the metric "llamacpp:spec_decode_num_draft_tokens_total" is at least 0
    And the metric "llamacpp:spec_decode_num_accepted_tokens_total" is at least 0
    And the metric "llamacpp:spec_decode_num_drafts_total" is at least 0

  Scenario: /metrics has ortolan's own metrics
    Given a server whose model supports infill
    When I request a completion:
      """
      {"prompt": "The same beginning of a prompt: it is longer than a block.", "n_predict": 3, "ignore_eos": true}
      """
    And I request a completion:
      """
      {"prompt": "The same beginning of a prompt: it is longer than a block.", "n_predict": 3, "ignore_eos": true, "cache_prompt": true}
      """
    And I get "/metrics"
    Then the metric "ortolan_requests_total{outcome="completed"}" is at least 2
    And the metric "ortolan_prefix_hits_total" is at least 1
    And the metric "ortolan_prompt_tokens_cached_total" is at least 32
    And the metric "ortolan_time_to_first_token_seconds_count" is at least 2
    And the metric "ortolan_time_per_output_token_seconds_count" is at least 2
    And the metric "ortolan_queue_wait_seconds_bucket{le="+Inf"}" is at least 2
    And the metric "ortolan_slots{state="idle"}" is 2
    And the metric "ortolan_preemptions_total" is 0

  Scenario: prompt lookup drafts repeated n-grams, and the draft tokens are accepted
    When I request a completion:
      """
      {"prompt": "One, two, three, four. One, two, three, four. One, two, three, four. One, two,", "n_predict": 24, "temperature": 0, "ignore_eos": true}
      """
    And I get "/metrics"
    Then the metric "ortolan_tokens_guessed_total" is at least 5
    And the metric "ortolan_tokens_guessed_rightly_total" is at least 5

  Scenario: /metrics gets 501 without --metrics
    Given a server with all optional endpoints disabled
    When I get "/metrics"
    Then the status is 501
    And the response's "error.type" is "not_supported_error"
    And the response's "error.message" is "This server does not support metrics endpoint."

  Scenario: /metrics counts running and queued requests
    Given four endless streams
    And a queued request for slot 0, then one with a higher priority
    When I get "/metrics"
    Then the metric "llamacpp:requests_processing" is 4
    And the metric "llamacpp:requests_deferred" is 2
    And the metric "llamacpp:kv_cache_tokens" is at least 128
    When the clients of all streams disconnect
    Then the request with the higher priority finishes first
    And all slots become idle
