Feature: Health endpoint
  A load balancer asks whether the server accepts requests.

  Scenario: /health is ok when the model is loaded
    When I request the health
    Then the status is 200
    And the response's "status" is "ok"
    And the response's "slots_idle" is 4
    And the response's "slots_processing" is 0

  Scenario: include_slots adds the slots to /health
    When I request the health with the slots
    Then the status is 200
    And the response's "slots.3.id" is 3

  Scenario: include_slots has no effect with --no-slots
    Given a server with the slots endpoint disabled
    When I request the health with the slots
    Then the status is 200
    And the response's "slots_idle" is 4
    And the response has no "slots"

  Scenario: /health gets 503 while the model is loading
    Given a server that is still loading its model
    When I request the health
    Then the status is 503
    And the response's "status" is "loading model"
    When I request the props
    Then the status is 503
    And the error message contains "Loading model"

  Scenario: /health gets 500 when the model failed to load
    Given a server whose model failed to load
    When I request the health
    Then the status is 500
    And the response's "status" is "error"
    When I request a completion:
      """
      {"prompt": "Hello"}
      """
    Then the status is 503
    And the error message contains "out of memory"

  Scenario: /health with all slots busy gets 503 only with fail_on_no_slot
    Given four endless streams
    When I request the health
    Then the status is 200
    And the response's "status" is "no slot available"
    And the response's "slots_processing" is 4
    When I request the health with failure when no slot is free
    Then the status is 503
    And the response's "status" is "no slot available"
    When the clients of all streams disconnect
    Then all slots become idle

  Scenario: query parameters of /health apply if present, whatever their value
    Given four endless streams
    When I get "/health?fail_on_no_slot=0&include_slots=false"
    Then the status is 503
    And the response's "slots.0.state" is 1
    When the clients of all streams disconnect
    Then all slots become idle
