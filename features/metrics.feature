Feature: Numbers for a monitor
  In Prometheus' text format: the eight of 2024, and what an operator wants to know beside them.

  Scenario: The numbers of 2024 count what was asked
    Given a server whose model fills gaps
    When I ask for a completion:
      """
      {"prompt": "0123456789", "n_predict": 5, "ignore_eos": true}
      """
    And I get "/metrics"
    Then the status is 200
    And the header "content-type" is "text/plain; version=0.0.4"
    And the header "process-start-time-unix" is a time of today
    And the metric "llamacpp:prompt_tokens_total" is at least 10
    And the metric "llamacpp:tokens_predicted_total" is at least 5
    And the metric "llamacpp:prompt_tokens_seconds" is at least 1
    And the metric "llamacpp:predicted_tokens_seconds" is at least 1
    And the metric "llamacpp:kv_cache_usage_ratio" is 0
    And the metric "llamacpp:kv_cache_tokens" is 0
    And the metric "llamacpp:requests_processing" is 0
    And the metric "llamacpp:requests_deferred" is 0

  Scenario: The numbers of today beside them
    Given a server whose model fills gaps
    When I ask for a completion:
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

  Scenario: What they do not tell
    Given a server whose model fills gaps
    When I ask for a completion:
      """
      {"prompt": "The same beginning of a prompt: it is longer than a block.", "n_predict": 3, "ignore_eos": true}
      """
    And I ask for a completion:
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

  Scenario: What a text repeats of itself is guessed
    When I ask for a completion:
      """
      {"prompt": "One, two, three, four. One, two, three, four. One, two, three, four. One, two,", "n_predict": 24, "temperature": 0, "ignore_eos": true}
      """
    And I get "/metrics"
    Then the metric "ortolan_tokens_guessed_total" is at least 5
    And the metric "ortolan_tokens_guessed_rightly_total" is at least 5

  Scenario: They are switched on
    Given a server that answers nothing that can be switched off
    When I get "/metrics"
    Then the status is 501
    And the answer's "error.type" is "not_supported_error"
    And the answer's "error.message" is "This server does not support metrics endpoint."

  Scenario: What runs and what waits
    Given four endless streams
    And a client that waits for the slot 0, and then a more urgent one
    When I get "/metrics"
    Then the metric "llamacpp:requests_processing" is 4
    And the metric "llamacpp:requests_deferred" is 2
    And the metric "llamacpp:kv_cache_tokens" is at least 128
    When all streams are left
    Then the more urgent one is answered first
    And all slots become idle
