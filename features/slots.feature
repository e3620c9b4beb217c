Feature: Slots endpoint
  A slot runs one request at a time and remembers its last one.

  Scenario: id_slot selects the slot of a completion
    When I request a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "id_slot": 3}
      """
    Then the response's "id_slot" is 3

  Scenario: /slots shows a slot's last request
    When I request a completion:
      """
      {"prompt": "Remember me", "n_predict": 2, "id_slot": 2, "temperature": 0.5}
      """
    And I request the slots
    Then the status is 200
    And the response's "2.prompt" is "Remember me"
    And the response's "2.state" is 0
    And the response's "2.temperature" is 0.5
    And the response's "2.next_token.n_decoded" is 2

  Scenario: /slots shows all options of a slot's last request
    When I request a completion:
      """
      {"prompt": "Say hello to llama.cpp", "n_predict": 4, "id_slot": 0, "seed": 42, "temperature": 0, "stop": ["\n"]}
      """
    And I request the slots
    Then slot 0 shows:
      """
      {"id": 0, "state": 0, "prompt": "Say hello to llama.cpp", "model": "smollm2", "n_ctx": 512, "n_keep": 0, "n_predict": 4,
       "n_probs": 0, "seed": 42, "stop": ["\n"], "stream": false, "temperature": 0, "dynatemp_exponent": 1,
       "dynatemp_range": 0, "frequency_penalty": 0, "presence_penalty": 0, "repeat_last_n": 64, "repeat_penalty": 1.1,
       "penalize_nl": true, "penalty_prompt_tokens": [], "use_penalty_prompt_tokens": false, "grammar": "",
       "ignore_eos": false, "logit_bias": [], "min_p": 0.05, "mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5,
       "samplers": ["top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature"], "tfs_z": 1, "top_k": 40,
       "top_p": 0.95, "typical_p": 1, "is_processing": false, "params.n_predict": 4, "params.temperature": 0}
      """

  Scenario: /slots shows how a slot's last request ended
    When I request a completion:
      """
      {"prompt": "1, 2, 3, 4, 5,", "n_predict": 40, "id_slot": 0, "temperature": 0, "repeat_penalty": 1, "stop": [", 9"], "penalty_prompt": "Hello"}
      """
    And I request the slots
    Then the response's "0.next_token.has_next_token" is false
    And the response's "0.next_token.stopped_word" is true
    And the response's "0.next_token.stopping_word" is ", 9"
    And the response's "0.next_token.stopped_limit" is false
    And the response's "0.next_token.stopped_eos" is false
    And the response's "0.next_token.has_new_line" is false
    And the response's "0.use_penalty_prompt_tokens" is true
    And the response's "0.penalty_prompt_tokens" is [19556]

  Scenario: /slots shows whether the generated text has a line break
    When I request a completion:
      """
      {"prompt": "Once", "n_predict": 4, "id_slot": 0, "grammar": "root ::= \"a\\nb\""}
      """
    And I request the slots
    Then the response's "0.next_token.has_new_line" is true

  Scenario: /slots shows a slot's running request
    Given a client that reads an endless stream in slot 1
    When I request the slots
    Then the response's "1.state" is 1
    And the response's "1.next_token.has_next_token" is true
    And the response's "1.prompt" is "Once upon a time"
    When the client of the endless stream disconnects
    Then all slots become idle

  Scenario: an unknown id_slot is rejected
    When I request a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "id_slot": 9}
      """
    Then the status is 400
    And the error's param is "id_slot"

  Scenario: /health counts idle and busy slots
    Given a client that reads an endless stream in slot 1
    When I request the health with the slots
    Then the response's "slots_idle" is 3
    And the response's "slots_processing" is 1
    And the response's "slots.1.state" is 1
    When the client of the endless stream disconnects
    Then all slots become idle

  Scenario: /slots gets 501 with --no-slots
    Given a server with all optional endpoints disabled
    When I request the slots
    Then the status is 501
    And the error message contains "This server does not support slots endpoint."
